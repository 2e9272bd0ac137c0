#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_ARB_gpu_shader_int64 : require
// layernorm_forward for CPU-type devices: an invocation has a row for itself.
#include "exact.glsl"
#include "eights_row.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Input { float input_[]; };     // [N,C]
layout(std430, set = 0, binding = 1) writeonly buffer Output { float output_[]; };  // [N,C]
layout(std430, set = 0, binding = 2) readonly buffer Gamma { float gamma[]; };      // [C]
layout(std430, set = 0, binding = 3) readonly buffer Beta { float beta[]; };        // [C]
layout(std430, set = 0, binding = 4) writeonly buffer Stats { float stats[]; };     // [N,2]: mean, rstd
layout(std430, set = 0, binding = 0) readonly buffer InputEights { u64vec4 input_u64vec4[]; };
layout(std430, set = 0, binding = 1) writeonly buffer OutputEights { u64vec4 output_u64vec4[]; };
layout(std430, set = 0, binding = 2) readonly buffer GammaEights { u64vec4 gamma_u64vec4[]; };
layout(std430, set = 0, binding = 3) readonly buffer BetaEights { u64vec4 beta_u64vec4[]; };

layout(push_constant) uniform Push {
    uint num_positions;   // N
    uint d_model;         // C, a multiple of ROW_LANES
    float eps;
    float inv_d_model;    // 1/C
} push;

void main() {
    uint row = flat_index();
    if (row >= push.num_positions) return;
    uint width = push.d_model / 8;
    uint base = row * width;

    float part[ROW_LANES];
    clear(part, 0.0);
    for (uint c = 0; c < width; c += ROW_LANES / 8)
        [[unroll]] for (uint v = 0; v < ROW_LANES / 8; ++v) {
            float x[8] = eight(input_u64vec4[base + c + v]);
            [[unroll]] for (uint j = 0; j < 8; ++j) part[8 * v + j] = part[8 * v + j] + x[j];
        }
    float mean = snap(row_sum(part) * push.inv_d_model);

    clear(part, 0.0);
    for (uint c = 0; c < width; c += ROW_LANES / 8)
        [[unroll]] for (uint v = 0; v < ROW_LANES / 8; ++v) {
            float x[8] = eight(input_u64vec4[base + c + v]);
            [[unroll]] for (uint j = 0; j < 8; ++j) {
                float y = snap(x[j] - mean);
                part[8 * v + j] = part[8 * v + j] + y * y;
            }
        }
    float rstd = rsqrt(row_sum(part) * push.inv_d_model + push.eps);

    for (uint c = 0; c < width; ++c) {
        float x[8] = eight(input_u64vec4[base + c]);
        float g[8] = eight(gamma_u64vec4[c]);
        float b[8] = eight(beta_u64vec4[c]);
        [[unroll]] for (uint j = 0; j < 8; ++j) {
            float normalized = snap(snap(x[j] - mean) * rstd);
            x[j] = snap(normalized * g[j] + b[j]);
        }
        output_u64vec4[base + c] = packed(x);
    }
    stats[2 * row] = mean;
    stats[2 * row + 1] = snap(rstd);
}
