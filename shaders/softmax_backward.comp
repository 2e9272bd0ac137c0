#version 460
#extension GL_GOOGLE_include_directive : require
// Gradient of causal softmax, in place: gradient[i,j] comes in as dP and leaves as dS,
//   dS[i,j] = P[i,j] * (dP[i,j] - D[i]) * scale for j <= i, 0 past the diagonal,
// with D[i] = dot(d_output[i], output[i]), which equals sum_j P[i,j] dP[i,j] (Dao et al. 2022, eq. 4)
// and needs no pass over the row.
#include "exact.glsl"
#include "row.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Probs { float probs[]; };       // P: [B,H,T,T], before dropout
layout(std430, set = 0, binding = 1) readonly buffer Output { float output_[]; };    // attention's output: [B,T,H*D]
layout(std430, set = 0, binding = 2) readonly buffer DOutput { float d_output[]; };  // [B,T,H*D]
layout(std430, set = 0, binding = 3) buffer Gradient { float gradient[]; };          // dP, then dS: [B,H,T,T]

layout(push_constant) uniform Push {
    uint rows;     // B*H*T
    uint context;  // T
    uint n_head;   // H
    uint d_head;   // D
    float scale;   // 1/sqrt(D)
} push;

void main() {
    uint row = row_index();
    if (row >= push.rows) return;
    uint i = row % push.context;
    uint matrix = row / push.context;
    uint position = matrix / push.n_head * push.context + i;
    uint at = (position * push.n_head + matrix % push.n_head) * push.d_head;

    // At most K_BLOCK terms (d_head <= 256), so one block of the dot product's contract.
    float dot_sum = 0.0;
    for (uint c = 0; c < push.d_head; ++c) dot_sum = dot_sum + d_output[at + c] * output_[at + c];
    float d = snap(dot_sum);

    uint base = row * push.context;
    for (uint l = 0; l < LANES_HERE; ++l)
        for (uint j = lane(l); j < push.context; j += ROW_LANES) {
            float ds = snap(probs[base + j] * snap(gradient[base + j] - d)) * push.scale;
            gradient[base + j] = j <= i ? snap(ds) : 0.0;
        }
}
