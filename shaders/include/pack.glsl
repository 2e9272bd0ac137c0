// Floats rounded to 16 bits (8 of exponent, 8 of significand), to nearest even, two in a word. A NaN stays one.

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

uint pair_of_numbers(vec2 x) {
    uvec2 bits = floatBitsToUint(x);
    bits += 0x7fffu + (bits >> 16 & 1u);
    return bits.x >> 16 | bits.y & 0xffff0000u;
}

// The same of eight, in less time: one look shows whether a NaN is among them.
uvec4 pairs(vec4 low, vec4 high) {
    vec4 sums = low + high;
    if (isnan((sums.x + sums.y) + (sums.z + sums.w))) {
        return uvec4(pair(low.x, low.y), pair(low.z, low.w), pair(high.x, high.y), pair(high.z, high.w));
    }
    return uvec4(
        pair_of_numbers(low.xy), pair_of_numbers(low.zw), pair_of_numbers(high.xy), pair_of_numbers(high.zw));
}
