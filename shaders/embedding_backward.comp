#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
// Adds the token embedding's gradient to what the tied output projection left in d_wte.
//
// Each (token, channel) is summed by one invocation over the token's positions in ascending order,
// so no atomics are needed and the order is fixed. The host sorts positions by token once a batch.
layout(local_size_x = 64) in;

#include "exact.glsl"
#include "flat.glsl"

layout(std430, set = 0, binding = 0) readonly buffer DOutput { float d_output[]; };  // [B,T,C]
layout(std430, set = 0, binding = 1) readonly buffer Order { uint order[]; };        // [B*T], positions by token
layout(std430, set = 0, binding = 2) readonly buffer Starts { uint starts[]; };      // [V+1], starts of runs
layout(std430, set = 0, binding = 3) buffer DWte { float d_wte[]; };                 // [V,C]

layout(push_constant) uniform Push {
    uint vocab_size;  // V
    uint d_model;     // C
} push;

// Positions that are read before they are added up, so that their ways from memory overlap.
const uint AT_ONCE = 8;

void main() {
    uint i = flat_index();
    if (i >= push.vocab_size * push.d_model) return;
    uint token = i / push.d_model;
    uint c = i % push.d_model;
    uint end = starts[token + 1];
    float sum = 0.0;
    uint k = starts[token];
    for (; k + AT_ONCE <= end; k += AT_ONCE) {
        float x[AT_ONCE];
        [[unroll]] for (uint j = 0; j < AT_ONCE; ++j) x[j] = d_output[order[k + j] * push.d_model + c];
        [[unroll]] for (uint j = 0; j < AT_ONCE; ++j) sum = sum + x[j];
    }
    for (; k < end; ++k) sum = sum + d_output[order[k] * push.d_model + c];
    d_wte[i] = snap(d_wte[i] + sum);
}
