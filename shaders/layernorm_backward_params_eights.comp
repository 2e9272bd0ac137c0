#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_ARB_gpu_shader_int64 : require
// layernorm_backward_params for CPU-type devices: eight columns an invocation.
layout(local_size_x = 8) in;

#include "exact.glsl"
#include "eights.glsl"
#include "flat.glsl"

const uint COLUMN_LANES = 64;

layout(std430, set = 0, binding = 0) readonly buffer DOutput { float d_output[]; };     // [N,C]
layout(std430, set = 0, binding = 1) readonly buffer Input { float input_[]; };         // [N,C]
layout(std430, set = 0, binding = 2) readonly buffer Stats { float stats[]; };          // [N,2]: mean, rstd
layout(std430, set = 0, binding = 3) writeonly buffer Partials { float partials[]; };   // [2,64,C]
layout(std430, set = 0, binding = 0) readonly buffer DOutputEights { u64vec4 d_output_u64vec4[]; };
layout(std430, set = 0, binding = 1) readonly buffer InputEights { u64vec4 input_u64vec4[]; };
layout(std430, set = 0, binding = 2) readonly buffer StatsPairs { vec2 stats_vec2[]; };
layout(std430, set = 0, binding = 3) writeonly buffer PartialsEights { u64vec4 partials_u64vec4[]; };

layout(push_constant) uniform Push {
    uint num_positions;  // N
    uint d_model;        // C, a multiple of eight
} push;

void main() {
    uint i = flat_index();
    uint width = push.d_model / 8;
    uint rows = push.num_positions;
    if (i >= COLUMN_LANES * width) return;
    float gamma_sum[8] = float[8](0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0);
    float beta_sum[8] = gamma_sum;
    uint at = i;
    for (uint row = i / width; row < rows; row += COLUMN_LANES) {
        float d[8] = eight(d_output_u64vec4[at]);
        float x[8] = eight(input_u64vec4[at]);
        vec2 of_row = stats_vec2[row];
        [[unroll]] for (uint j = 0; j < 8; ++j) {
            gamma_sum[j] = gamma_sum[j] + d[j] * snap(snap(x[j] - of_row.x) * of_row.y);
            beta_sum[j] = beta_sum[j] + d[j];
        }
        at += COLUMN_LANES * width;
    }
    partials_u64vec4[i] = packed(gamma_sum);
    partials_u64vec4[COLUMN_LANES * width + i] = packed(beta_sum);
}
