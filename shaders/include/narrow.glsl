// Tensors kept in 16 bits, by fours of their elements.
#extension GL_EXT_control_flow_attributes : require
#define F16_ID 10
#include "packed.glsl"

uvec2 narrowed(vec4 x) {
    return uvec2(packed_pair(x.xy, false), packed_pair(x.zw, false));
}

vec4 widened(uvec2 x) {
    return vec4(unpacked_pair(x.x, false), unpacked_pair(x.y, false));
}

uvec2 narrowed_gradient(vec4 x) {
    return uvec2(packed_pair(x.xy, true), packed_pair(x.zw, true));
}

vec4 widened_gradient(uvec2 x) {
    return vec4(unpacked_pair(x.x, true), unpacked_pair(x.y, true));
}
