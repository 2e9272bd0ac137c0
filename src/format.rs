//! Sizes, counts and times as people read them.

/// A size in bytes: `512 B`, `3.1 MiB`, `139.0 GiB`.
pub fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    // 1023.95 would be written as 1024.0.
    while value >= 1023.95 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// A count: `950`, `17.2 k`, `124.4 M`.
pub fn count(count: f64) -> String {
    let units = ["", " k", " M", " G", " T"];
    let (mut value, mut unit) = (count, 0);
    while value >= 999.95 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{value:.0}") } else { format!("{value:.1}{}", units[unit]) }
}

/// A time: `8 s`, `2 min 10 s`, `3 h 05 min`, `2 d 4 h`.
pub fn duration(seconds: f64) -> String {
    // A cast saturates, so that an endless time is a long one.
    let s = seconds.max(0.0).round() as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {:02} s", s / 60, s % 60),
        3600..86_400 => format!("{} h {:02} min", s / 3600, s / 60 % 60),
        _ => format!("{} d {} h", s / 86_400, s / 3600 % 24),
    }
}
