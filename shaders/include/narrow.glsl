// Tensors kept in 16 bits, two elements a word, the first one low, in the format of the device's factors.
#extension GL_EXT_control_flow_attributes : require
#include "pack.glsl"

layout(constant_id = 10) const uint HALF = 0;  // 1: 5 bits of exponent and 11 of significand; 0: 8 and 8

// What gradients are multiplied by while they are kept in the smaller range: units::GRADIENT_SCALE.
const float GRADIENT_SCALE = HALF != 0 ? 16384.0 : 1.0;

// Finite numbers stay finite.
float bounded(float x) {
    return HALF != 0 && !isinf(x) ? (abs(x) > 65504.0 ? sign(x) * 65504.0 : x) : x;
}

uint narrowed(vec2 x) {
    return HALF != 0 ? packHalf2x16(vec2(bounded(x.x), bounded(x.y))) : pair(x.x, x.y);
}

uvec2 narrowed(vec4 x) {
    return uvec2(narrowed(x.xy), narrowed(x.zw));
}

vec2 widened(uint x) {
    return HALF != 0 ? unpackHalf2x16(x) : uintBitsToFloat(uvec2(x << 16, x & 0xffff0000u));
}

vec4 widened(uvec2 x) {
    return vec4(widened(x.x), widened(x.y));
}

uvec2 narrowed_gradient(vec4 x) {
    return narrowed(x * GRADIENT_SCALE);
}

vec4 widened_gradient(uvec2 x) {
    return widened(x) * (1.0 / GRADIENT_SCALE);
}
