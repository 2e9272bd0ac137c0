//! The exact contract's arithmetic on the CPU: twin of `shaders/include/exact.glsl`.

/// What |x| < 2^-50 becomes is +0, so that no product of two stored values is subnormal.
pub fn snap(x: f32) -> f32 {
    if x.abs() < 8.881_784_2e-16 { 0.0 } else { x }
}
