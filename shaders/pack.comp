#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#pragma hlx fast
// Rounds floats to 16 bits, two to a word.
layout(local_size_x = 256) in;

#include "flat.glsl"
#include "packed.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Input { float input_[]; };          // [count]
layout(std430, set = 0, binding = 1) writeonly buffer Output { uint output_[]; };        // [count / 2], rounded up
layout(std430, set = 0, binding = 0) readonly buffer InputQuads { vec4 input_vec4[]; };
layout(std430, set = 0, binding = 1) writeonly buffer OutputQuads { uvec4 output_uvec4[]; };

layout(push_constant) uniform Push {
    uint count;
    uint gradient; // the numbers are gradients
} push;

void main() {
    uint i = flat_index();
    bool gradient = push.gradient != 0;
    if (8 * i + 8 <= push.count) {
        vec4 low = input_vec4[2 * i];
        vec4 high = input_vec4[2 * i + 1];
        output_uvec4[i] = uvec4(
            packed_pair(low.xy, gradient), packed_pair(low.zw, gradient),
            packed_pair(high.xy, gradient), packed_pair(high.zw, gradient));
        return;
    }
    for (uint j = 8 * i; j < push.count; j += 2) {
        vec2 x = vec2(input_[j], j + 1 < push.count ? input_[j + 1] : 0.0);
        output_[j / 2] = packed_pair(x, gradient);
    }
}
