#version 460
#extension GL_GOOGLE_include_directive : require
// Position embedding's gradient: d_wpe[t,c] = sum over b ascending of d_output[b,t,c].
layout(local_size_x = 64) in;

#include "exact.glsl"
#include "flat.glsl"

layout(std430, set = 0, binding = 0) readonly buffer DOutput { float d_output[]; };  // [B,T,C]
layout(std430, set = 0, binding = 1) writeonly buffer DWpe { float d_wpe[]; };       // [T,C]

layout(push_constant) uniform Push {
    uint batch;    // B
    uint context;  // T
    uint d_model;  // C
} push;

void main() {
    uint i = flat_index();
    uint size = push.context * push.d_model;
    if (i >= size) return;
    float sum = 0.0;
    for (uint b = 0; b < push.batch; ++b) sum = sum + d_output[b * size + i];
    d_wpe[i] = snap(sum);
}
