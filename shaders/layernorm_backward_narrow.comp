#version 460
#extension GL_GOOGLE_include_directive : require
#pragma hlx fast
// Gradient of LayerNorm with respect to its input, as layernorm_backward, from a gradient kept in 16 bits; the
// result also in 16 bits. On the way the sums over a workgroup's rows for the gradients of the parameters:
//   partials[g,0,c] = sum of d_output * n,  partials[g,1,c] = sum of d_output,  partials[g,2,c] = sum of d_input
#extension GL_KHR_shader_subgroup_arithmetic : require
#include "narrow_rows.glsl"

layout(std430, set = 0, binding = 0) readonly buffer DOutput { uint d_output[]; };    // [N,C/2]
layout(std430, set = 0, binding = 1) readonly buffer Input { float input_[]; };       // [N,C]
layout(std430, set = 0, binding = 2) readonly buffer Gamma { float gamma[]; };        // [C]
layout(std430, set = 0, binding = 3) readonly buffer Stats { float stats[]; };        // [N,2]: mean, rstd
layout(std430, set = 0, binding = 4) buffer DInput { float d_input[]; };              // [N,C]
layout(std430, set = 0, binding = 5) writeonly buffer Narrow { uint narrow[]; };      // [N,C/2]: d_input again
layout(std430, set = 0, binding = 6) writeonly buffer Partials { float partials[]; }; // [groups,3,C]
layout(std430, set = 0, binding = 0) readonly buffer DOutputQuads { uvec2 d_output_uvec2[]; };
layout(std430, set = 0, binding = 1) readonly buffer InputQuads { vec4 input_vec4[]; };
layout(std430, set = 0, binding = 2) readonly buffer GammaQuads { vec4 gamma_vec4[]; };
layout(std430, set = 0, binding = 3) readonly buffer StatsPairs { vec2 stats_vec2[]; };
layout(std430, set = 0, binding = 4) buffer DInputQuads { vec4 d_input_vec4[]; };
layout(std430, set = 0, binding = 5) writeonly buffer NarrowQuads { uvec2 narrow_uvec2[]; };
layout(std430, set = 0, binding = 6) writeonly buffer PartialQuads { vec4 partials_vec4[]; };

layout(constant_id = 3) const uint QUADS = 192;  // of a row

layout(push_constant) uniform Push {
    uint num_positions;  // N
    uint d_model;        // C, a multiple of 4
    float inv_d_model;   // 1/C
    uint add_residual;   // 1: d_input holds the gradient that bypasses the norm, and is added to
} push;

shared vec4 sums[QUADS];

float total(vec4 part) {
    return subgroupAdd((part.x + part.y) + (part.z + part.w));
}

// Adds the subgroups' sums in the order of their numbers, and writes them.
void write_sums(vec4 here[QUADS_HERE], uint which) {
    for (uint s = 0; s < gl_NumSubgroups; ++s) {
        if (s == gl_SubgroupID) {
            [[unroll]] for (uint i = 0; i < QUADS_HERE; ++i) {
                uint q = quad_here(i);
                if (q < QUADS) sums[q] = s == 0 ? here[i] : sums[q] + here[i];
            }
        }
        barrier();
    }
    for (uint q = gl_LocalInvocationIndex; q < QUADS; q += gl_WorkGroupSize.x) {
        partials_vec4[(gl_WorkGroupID.x * 3 + which) * QUADS + q] = sums[q];
    }
    barrier();
}

void main() {
    vec4 of_gamma[QUADS_HERE], of_beta[QUADS_HERE], of_input[QUADS_HERE];
    [[unroll]] for (uint i = 0; i < QUADS_HERE; ++i) of_gamma[i] = of_beta[i] = of_input[i] = vec4(0.0);

    for (uint row = first_row(); row < push.num_positions; row += rows_at_once()) {
        uint base = row * QUADS;
        vec2 of_row = stats_vec2[row];
        vec4 n[QUADS_HERE], g[QUADS_HERE], rest[QUADS_HERE];  // all fetched before anything is waited for
        vec4 sum_g = vec4(0.0), sum_gn = vec4(0.0);
        [[unroll]] for (uint i = 0; i < QUADS_HERE; ++i) {
            uint q = quad_here(i);
            n[i] = g[i] = rest[i] = vec4(0.0);
            if (q < QUADS) {
                vec4 d = widened_gradient(d_output_uvec2[base + q]);
                if (push.add_residual != 0) rest[i] = d_input_vec4[base + q];
                n[i] = (input_vec4[base + q] - of_row.x) * of_row.y;
                g[i] = d * gamma_vec4[q];
                of_gamma[i] += d * n[i];
                of_beta[i] += d;
                sum_g += g[i];
                sum_gn += g[i] * n[i];
            }
        }
        float mean_g = total(sum_g) * push.inv_d_model;
        float mean_gn = total(sum_gn) * push.inv_d_model;
        [[unroll]] for (uint i = 0; i < QUADS_HERE; ++i) {
            uint q = quad_here(i);
            if (q < QUADS) {
                vec4 d = (g[i] - mean_g - n[i] * mean_gn) * of_row.y + rest[i];
                d_input_vec4[base + q] = d;
                narrow_uvec2[base + q] = narrowed_gradient(d);
                of_input[i] += d;
            }
        }
    }
    write_sums(of_gamma, 0);
    write_sums(of_beta, 1);
    write_sums(of_input, 2);
}
