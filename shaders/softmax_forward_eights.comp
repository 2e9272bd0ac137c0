#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_ARB_gpu_shader_int64 : require
// softmax_forward for CPU-type devices: an invocation has a row for itself. Past the diagonal the input may be
// read, and is not used.
#include "exact.glsl"
#include "eights_row.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Input { float input_[]; };     // [Z,T,T]
layout(std430, set = 0, binding = 1) writeonly buffer Output { float output_[]; };  // [Z,T,T]
layout(std430, set = 0, binding = 0) readonly buffer InputEights { u64vec4 input_u64vec4[]; };
layout(std430, set = 0, binding = 1) writeonly buffer OutputEights { u64vec4 output_u64vec4[]; };

layout(push_constant) uniform Push {
    uint rows;     // Z*T
    uint context;  // T, a multiple of ROW_LANES
    float scale;   // 1/sqrt(d_head)
} push;

void main() {
    uint row = flat_index();
    if (row >= push.rows) return;
    uint context = push.context;
    float scale = push.scale;
    uint base = row * (context / 8);
    uint length = row % context + 1;

    float part[ROW_LANES];
    clear(part, input_[row * context] * scale);
    for (uint j = 0; j < length; j += ROW_LANES)
        [[unroll]] for (uint v = 0; v < ROW_LANES; v += 8) {
            float x[8] = eight(input_u64vec4[base + (j + v) / 8]);
            [[unroll]] for (uint k = 0; k < 8; ++k) {
                float s = x[k] * scale;
                part[v + k] = j + v + k < length && s > part[v + k] ? s : part[v + k];
            }
        }
    float largest = part[0];
    [[unroll]] for (uint l = 1; l < ROW_LANES; ++l) largest = part[l] > largest ? part[l] : largest;

    clear(part, 0.0);
    for (uint j = 0; j < length; j += ROW_LANES)
        [[unroll]] for (uint v = 0; v < ROW_LANES; v += 8) {
            float x[8] = eight(input_u64vec4[base + (j + v) / 8]);
            [[unroll]] for (uint k = 0; k < 8; ++k) {
                float e = snap(exp_exact(x[k] * scale - largest));
                part[v + k] = j + v + k < length ? part[v + k] + e : part[v + k];
            }
        }
    float inv_sum = recip(row_sum(part));

    for (uint j = 0; j < context; j += 8) {
        float x[8] = float[8](0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0);
        if (j < length) {
            x = eight(input_u64vec4[base + j / 8]);
            [[unroll]] for (uint k = 0; k < 8; ++k) {
                float e = snap(exp_exact(x[k] * scale - largest));
                x[k] = j + k < length ? snap(e * inv_sum) : 0.0;
            }
        }
        output_u64vec4[base + j / 8] = packed(x);
    }
}
