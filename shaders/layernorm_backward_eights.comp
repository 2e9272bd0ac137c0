#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_ARB_gpu_shader_int64 : require
// layernorm_backward for CPU-type devices: an invocation has a row for itself.
#include "exact.glsl"
#include "eights_row.glsl"

layout(std430, set = 0, binding = 0) readonly buffer DOutput { float d_output[]; };  // [N,C]
layout(std430, set = 0, binding = 1) readonly buffer Input { float input_[]; };      // [N,C]
layout(std430, set = 0, binding = 2) readonly buffer Gamma { float gamma[]; };       // [C]
layout(std430, set = 0, binding = 3) readonly buffer Stats { float stats[]; };       // [N,2]: mean, rstd
layout(std430, set = 0, binding = 4) buffer DInput { float d_input[]; };             // [N,C]
layout(std430, set = 0, binding = 0) readonly buffer DOutputEights { u64vec4 d_output_u64vec4[]; };
layout(std430, set = 0, binding = 1) readonly buffer InputEights { u64vec4 input_u64vec4[]; };
layout(std430, set = 0, binding = 2) readonly buffer GammaEights { u64vec4 gamma_u64vec4[]; };
layout(std430, set = 0, binding = 4) buffer DInputEights { u64vec4 d_input_u64vec4[]; };

layout(push_constant) uniform Push {
    uint num_positions;  // N
    uint d_model;        // C, a multiple of ROW_LANES
    float inv_d_model;   // 1/C
    uint add_residual;   // 1: d_input holds the gradient that bypasses the norm, and is added to
} push;

void main() {
    uint row = flat_index();
    if (row >= push.num_positions) return;
    uint width = push.d_model / 8;
    uint base = row * width;
    float mean = stats[2 * row];
    float rstd = stats[2 * row + 1];
    bool add_residual = push.add_residual != 0;

    float g_part[ROW_LANES];
    float gn_part[ROW_LANES];
    clear(g_part, 0.0);
    clear(gn_part, 0.0);
    for (uint c = 0; c < width; c += ROW_LANES / 8)
        [[unroll]] for (uint v = 0; v < ROW_LANES / 8; ++v) {
            float x[8] = eight(input_u64vec4[base + c + v]);
            float d[8] = eight(d_output_u64vec4[base + c + v]);
            float gamma8[8] = eight(gamma_u64vec4[c + v]);
            [[unroll]] for (uint j = 0; j < 8; ++j) {
                float n = snap(snap(x[j] - mean) * rstd);
                float g = snap(d[j] * gamma8[j]);
                g_part[8 * v + j] = g_part[8 * v + j] + g;
                gn_part[8 * v + j] = gn_part[8 * v + j] + g * n;
            }
        }
    float mean_g = snap(row_sum(g_part) * push.inv_d_model);
    float mean_gn = snap(row_sum(gn_part) * push.inv_d_model);

    for (uint c = 0; c < width; ++c) {
        float x[8] = eight(input_u64vec4[base + c]);
        float d[8] = eight(d_output_u64vec4[base + c]);
        float gamma8[8] = eight(gamma_u64vec4[c]);
        [[unroll]] for (uint j = 0; j < 8; ++j) {
            float n = snap(snap(x[j] - mean) * rstd);
            float g = snap(d[j] * gamma8[j]);
            d[j] = snap(snap(g - mean_g) - n * mean_gn) * rstd;
        }
        if (add_residual) {
            float residual[8] = eight(d_input_u64vec4[base + c]);
            [[unroll]] for (uint j = 0; j < 8; ++j) d[j] = residual[j] + d[j];
        }
        [[unroll]] for (uint j = 0; j < 8; ++j) d[j] = snap(d[j]);
        d_input_u64vec4[base + c] = packed(d);
    }
}
