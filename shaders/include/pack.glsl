// Two floats rounded to 16 bits (8 of exponent, 8 of significand), to nearest even, in a word. A NaN stays one.

uint rounded(float x) {
    uint bits = floatBitsToUint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return bits >> 16 | 0x40u;
    }
    return bits + 0x7fffu + (bits >> 16 & 1u) >> 16;
}

uint pair(float low, float high) {
    return rounded(low) | rounded(high) << 16;
}
