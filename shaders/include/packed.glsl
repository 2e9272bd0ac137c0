// Tensors of 16-bit floats, two to a word, the first one low, in the format of the device's factors.

#include "pack.glsl"

#ifndef F16_ID
#define F16_ID 0
#endif

layout(constant_id = F16_ID) const uint F16 = 0; // 5 bits of exponent and 11 of significand, else 8 and 8

// What gradients are multiplied by where 16 bits hold little exponent. Twin of ops::gemm::units::GRADIENT_SCALE.
const float GRADIENT_SCALE = 16384.0;

uint packed_pair(vec2 x, bool gradient) {
    if (F16 == 0) {
        return pair(x.x, x.y);
    }
    // Finite numbers stay finite.
    vec2 scaled = gradient ? x * GRADIENT_SCALE : x;
    vec2 held = clamp(scaled, -65504.0, 65504.0);
    return packHalf2x16(mix(scaled, held, lessThan(abs(x), vec2(uintBitsToFloat(0x7f800000u)))));
}

vec2 unpacked_pair(uint halves, bool gradient) {
    if (F16 == 0) {
        return vec2(uintBitsToFloat(halves << 16), uintBitsToFloat(halves & 0xffff0000u));
    }
    vec2 x = unpackHalf2x16(halves);
    return gradient ? x * (1.0 / GRADIENT_SCALE) : x;
}
