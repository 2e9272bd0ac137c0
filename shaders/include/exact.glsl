// The exact contract's arithmetic: the same bits on every device.

// What |x| < 2^-50 becomes is +0, so that no product of two stored values is subnormal.
float snap(float x) {
    return abs(x) < 8.8817841970012523e-16 ? 0.0 : x;
}
