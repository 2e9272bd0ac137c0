#version 460
#extension GL_GOOGLE_include_directive : require
// Gradient of LayerNorm with respect to its input, added to the gradient that bypasses it:
//   n = (x - mean) * rstd,  g = d_output * gamma
//   d_input = residual + rstd * (g - sum(g)/C - n * sum(g*n)/C)
#include "exact.glsl"
#include "row.glsl"

layout(std430, set = 0, binding = 0) readonly buffer DOutput { float d_output[]; };  // [N,C]
layout(std430, set = 0, binding = 1) readonly buffer Input { float input_[]; };      // [N,C]
layout(std430, set = 0, binding = 2) readonly buffer Gamma { float gamma[]; };       // [C]
layout(std430, set = 0, binding = 3) readonly buffer Stats { float stats[]; };       // [N,2]: mean, rstd
layout(std430, set = 0, binding = 4) buffer DInput { float d_input[]; };             // [N,C]

layout(push_constant) uniform Push {
    uint num_positions;  // N
    uint d_model;        // C
    float inv_d_model;   // 1/C
    uint add_residual;   // 1: d_input holds the gradient that bypasses the norm, and is added to
} push;

void main() {
    uint row = row_index();
    bool live = row < push.num_positions;
    uint base = (live ? row : 0) * push.d_model;
    float mean = stats[2 * (live ? row : 0)];
    float rstd = stats[2 * (live ? row : 0) + 1];

    float part[ROW_LANES];
    for (uint l = 0; l < LANES_HERE; ++l) {
        part[l] = 0.0;
        for (uint c = lane(l); c < push.d_model; c += ROW_LANES)
            part[l] = part[l] + snap(d_output[base + c] * gamma[c]);
    }
    float mean_g = snap(row_sum(part) * push.inv_d_model);

    for (uint l = 0; l < LANES_HERE; ++l) {
        part[l] = 0.0;
        for (uint c = lane(l); c < push.d_model; c += ROW_LANES) {
            float n = snap(snap(input_[base + c] - mean) * rstd);
            part[l] = part[l] + snap(d_output[base + c] * gamma[c]) * n;
        }
    }
    float mean_gn = snap(row_sum(part) * push.inv_d_model);

    if (!live) return;
    for (uint l = 0; l < LANES_HERE; ++l)
        for (uint c = lane(l); c < push.d_model; c += ROW_LANES) {
            float n = snap(snap(input_[base + c] - mean) * rstd);
            float g = snap(d_output[base + c] * gamma[c]);
            float d = snap(snap(g - mean_g) - n * mean_gn) * rstd;
            d_input[base + c] = snap(push.add_residual != 0 ? d_input[base + c] + d : d);
        }
}
