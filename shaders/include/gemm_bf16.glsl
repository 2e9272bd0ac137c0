// 16-bit floats of 8 bits of exponent and 8 of significand as factors.

#define FACTOR bfloat16_t

// By hand: how the language's own conversion rounds is up to the device.
#include "pack.glsl"

uvec4 rounded(vec4 low, vec4 high) {
    return pairs(low, high);
}

vec4 widened(uvec2 x) {
    uvec4 bits = uvec4(x.x << 16, x.x & 0xffff0000u, x.y << 16, x.y & 0xffff0000u);
    return uintBitsToFloat(bits);
}
