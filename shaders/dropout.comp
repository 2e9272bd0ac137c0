#version 460
#extension GL_GOOGLE_include_directive : require
// Dropout by counter-based random numbers (Philox4x32-10): the mask is a function of seed, purpose,
// step and index alone, so the backward pass applies the same one by running the same kernel.
// An invocation handles the four elements that share one Philox call.
layout(local_size_x = 64) in;

#include "exact.glsl"
#include "philox.glsl"
#include "flat.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Input { float input_[]; };     // [count]
layout(std430, set = 0, binding = 1) readonly buffer Step { uint step_number[]; };  // [2]: micro-batch, low word first
layout(std430, set = 0, binding = 2) writeonly buffer Output { float output_[]; };  // [count]

layout(push_constant) uniform Push {
    uint count;
    uint seed_low;
    uint seed_high;
    uint purpose;    // which dropout site of which layer
    uint threshold;  // an element is dropped if its random word is below this
    float scale;     // 1/(1-p)
} push;

void main() {
    uint quad = flat_index();
    if (4 * quad >= push.count) return;
    uvec4 counter = uvec4(quad, push.purpose, step_number[0], step_number[1]);
    uvec4 words = philox(counter, uvec2(push.seed_low, push.seed_high));
    for (uint j = 0; j < 4; ++j) {
        uint i = 4 * quad + j;
        if (i < push.count) output_[i] = words[j] < push.threshold ? 0.0 : snap(input_[i] * push.scale);
    }
}
