#version 460
#extension GL_GOOGLE_include_directive : require
// LayerNorm over the last dimension (Ba et al. 2016): output = (input - mean) * rstd * gamma + beta.
#include "exact.glsl"
#include "row.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Input { float input_[]; };     // [N,C]
layout(std430, set = 0, binding = 1) writeonly buffer Output { float output_[]; };  // [N,C]
layout(std430, set = 0, binding = 2) readonly buffer Gamma { float gamma[]; };      // [C]
layout(std430, set = 0, binding = 3) readonly buffer Beta { float beta[]; };        // [C]
layout(std430, set = 0, binding = 4) writeonly buffer Stats { float stats[]; };     // [N,2]: mean, rstd

layout(push_constant) uniform Push {
    uint num_positions;   // N
    uint d_model;         // C
    float eps;
    float inv_d_model;    // 1/C
} push;

void main() {
    uint row = row_index();
    bool live = row < push.num_positions;
    uint base = (live ? row : 0) * push.d_model;

    float part[ROW_LANES];
    for (uint l = 0; l < LANES_HERE; ++l) {
        part[l] = 0.0;
        for (uint c = lane(l); c < push.d_model; c += ROW_LANES) part[l] = part[l] + input_[base + c];
    }
    float mean = snap(row_sum(part) * push.inv_d_model);

    for (uint l = 0; l < LANES_HERE; ++l) {
        part[l] = 0.0;
        for (uint c = lane(l); c < push.d_model; c += ROW_LANES) {
            float x = snap(input_[base + c] - mean);
            part[l] = part[l] + x * x;
        }
    }
    float rstd = rsqrt(row_sum(part) * push.inv_d_model + push.eps);

    if (!live) return;
    for (uint l = 0; l < LANES_HERE; ++l)
        for (uint c = lane(l); c < push.d_model; c += ROW_LANES) {
            float normalized = snap(snap(input_[base + c] - mean) * rstd);
            output_[base + c] = snap(normalized * gamma[c] + beta[c]);
        }
    if (gl_LocalInvocationID.x == 0) {
        stats[2 * row] = mean;
        stats[2 * row + 1] = snap(rstd);
    }
}
