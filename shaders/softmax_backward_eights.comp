#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_ARB_gpu_shader_int64 : require
// softmax_backward for CPU-type devices: an invocation has a row for itself. Past the diagonal the gradient may
// be read, and is not used.
#include "exact.glsl"
#include "eights_row.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Probs { float probs[]; };       // P: [B,H,T,T], before dropout
layout(std430, set = 0, binding = 1) readonly buffer Output { float output_[]; };    // attention's output: [B,T,H*D]
layout(std430, set = 0, binding = 2) readonly buffer DOutput { float d_output[]; };  // [B,T,H*D]
layout(std430, set = 0, binding = 3) buffer Gradient { float gradient[]; };          // dP, then dS: [B,H,T,T]
layout(std430, set = 0, binding = 0) readonly buffer ProbsEights { u64vec4 probs_u64vec4[]; };
layout(std430, set = 0, binding = 1) readonly buffer OutputEights { u64vec4 output_u64vec4[]; };
layout(std430, set = 0, binding = 2) readonly buffer DOutputEights { u64vec4 d_output_u64vec4[]; };
layout(std430, set = 0, binding = 3) buffer GradientEights { u64vec4 gradient_u64vec4[]; };

layout(push_constant) uniform Push {
    uint rows;     // B*H*T
    uint context;  // T, a multiple of eight
    uint n_head;   // H
    uint d_head;   // D, a multiple of eight
    float scale;   // 1/sqrt(D)
} push;

void main() {
    uint row = flat_index();
    if (row >= push.rows) return;
    uint context = push.context;
    float scale = push.scale;
    uint d_head = push.d_head;
    uint i = row % context;
    uint matrix = row / context;
    uint position = matrix / push.n_head * context + i;
    uint at = (position * push.n_head + matrix % push.n_head) * d_head;

    // One block of the dot product's contract.
    float dot_sum = 0.0;
    for (uint c = 0; c < d_head; c += 8) {
        float d[8] = eight(d_output_u64vec4[(at + c) / 8]);
        float o[8] = eight(output_u64vec4[(at + c) / 8]);
        [[unroll]] for (uint k = 0; k < 8; ++k) dot_sum = dot_sum + d[k] * o[k];
    }
    float d = snap(dot_sum);

    uint base = row * context;
    for (uint j = 0; j < context; j += 8) {
        float ds[8] = float[8](0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0);
        if (j <= i) {
            float p[8] = eight(probs_u64vec4[(base + j) / 8]);
            float g[8] = eight(gradient_u64vec4[(base + j) / 8]);
            [[unroll]] for (uint k = 0; k < 8; ++k)
                ds[k] = j + k <= i ? snap(snap(p[k] * snap(g[k] - d)) * scale) : 0.0;
        }
        gradient_u64vec4[(base + j) / 8] = packed(ds);
    }
}
