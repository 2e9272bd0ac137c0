// 16-bit floats of 5 bits of exponent and 11 of significand as factors.

#define FACTOR float16_t

uvec4 rounded(vec4 low, vec4 high) {
    return uvec4(
        packHalf2x16(low.xy), packHalf2x16(low.zw), packHalf2x16(high.xy), packHalf2x16(high.zw));
}

vec4 widened(uvec2 x) {
    return vec4(unpackHalf2x16(x.x), unpackHalf2x16(x.y));
}
