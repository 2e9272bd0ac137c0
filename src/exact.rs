//! The exact contract's arithmetic on the CPU: twin of `shaders/include/exact.glsl`.

/// What |x| < 2^-50 becomes is +0, so that no product of two stored values is subnormal.
pub fn snap(x: f32) -> f32 {
    const LIMIT: f32 = 1.0 / (1_u64 << 50) as f32;
    if x.abs() < LIMIT { 0.0 } else { x }
}
