#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_ARB_gpu_shader_int64 : require
// dropout for CPU-type devices: an invocation handles the eight elements of two Philox calls.
layout(local_size_x = 64) in;

#include "exact.glsl"
#include "philox.glsl"
#include "eights.glsl"
#include "flat.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Input { float input_[]; };     // [count]
layout(std430, set = 0, binding = 1) readonly buffer Step { uint step_number[]; };  // [2], as dropout's
layout(std430, set = 0, binding = 2) writeonly buffer Output { float output_[]; };  // [count]
layout(std430, set = 0, binding = 0) readonly buffer InputEights { u64vec4 input_u64vec4[]; };
layout(std430, set = 0, binding = 2) writeonly buffer OutputEights { u64vec4 output_u64vec4[]; };

layout(push_constant) uniform Push {
    uint count;  // a multiple of eight
    uint seed_low;
    uint seed_high;
    uint purpose;    // which dropout site of which layer
    uint threshold;  // an element is dropped if its random word is below this
    float scale;     // 1/(1-p)
} push;

void main() {
    uint i = flat_index();
    // What is the same for all, read before anything branches, where software Vulkan reads it once.
    uvec4 counter = uvec4(0, push.purpose, step_number[0], step_number[1]);
    uvec2 seed = uvec2(push.seed_low, push.seed_high);
    uint threshold = push.threshold;
    float scale = push.scale;
    if (8 * i >= push.count) return;
    float x[8] = eight(input_u64vec4[i]);
    [[unroll]] for (uint h = 0; h < 2; ++h) {
        counter.x = 2 * i + h;
        uvec4 words = philox(counter, seed);
        [[unroll]] for (uint j = 0; j < 4; ++j)
            x[4 * h + j] = words[j] < threshold ? 0.0 : snap(x[4 * h + j] * scale);
    }
    output_u64vec4[i] = packed(x);
}
