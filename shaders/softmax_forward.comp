#version 460
#extension GL_GOOGLE_include_directive : require
// Causal softmax of attention scores: row i of each T x T matrix is normalized over columns 0 to i,
//   output[i,j] = exp(scale*input[i,j] - max) / sum,  and 0 for j > i.
// Columns past the diagonal of the input are never read.
#include "exact.glsl"
#include "row.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Input { float input_[]; };  // [Z,T,T]
layout(std430, set = 0, binding = 1) buffer Output { float output_[]; };         // [Z,T,T]

layout(push_constant) uniform Push {
    uint rows;     // Z*T
    uint context;  // T
    float scale;   // 1/sqrt(d_head)
} push;

void main() {
    uint row = row_index();
    bool live = row < push.rows;
    uint base = (live ? row : 0) * push.context;
    uint length = live ? row % push.context + 1 : 1;

    float part[ROW_LANES];
    for (uint l = 0; l < LANES_HERE; ++l) {
        part[l] = input_[base] * push.scale;
        for (uint j = lane(l); j < length; j += ROW_LANES) {
            float s = input_[base + j] * push.scale;
            part[l] = s > part[l] ? s : part[l];
        }
    }
    float largest = row_max(part);

    for (uint l = 0; l < LANES_HERE; ++l) {
        part[l] = 0.0;
        for (uint j = lane(l); j < length; j += ROW_LANES) {
            float e = snap(exp_exact(input_[base + j] * push.scale - largest));
            if (live) output_[base + j] = e;
            part[l] = part[l] + e;
        }
    }
    float inv_sum = recip(row_sum(part));

    if (!live) return;
    for (uint l = 0; l < LANES_HERE; ++l)
        for (uint j = lane(l); j < push.context; j += ROW_LANES)
            output_[base + j] = j < length ? snap(output_[base + j] * inv_sum) : 0.0;
}
