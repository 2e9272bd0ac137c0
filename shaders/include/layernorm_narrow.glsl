// LayerNorm over the last dimension (Ba et al. 2016), its output kept in 16 bits; a subgroup takes a row, and
// keeps it in registers. With ADD, of the sum of the residual stream and a branch, which is written too.
#extension GL_KHR_shader_subgroup_arithmetic : require
#include "narrow_rows.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Input { float input_[]; };    // [N,C]
layout(std430, set = 0, binding = 1) writeonly buffer Output { uint output_[]; };  // [N,C/2]
layout(std430, set = 0, binding = 2) readonly buffer Gamma { float gamma[]; };     // [C]
layout(std430, set = 0, binding = 3) readonly buffer Beta { float beta[]; };       // [C]
layout(std430, set = 0, binding = 4) writeonly buffer Stats { float stats[]; };    // [N,2]: mean, rstd
layout(std430, set = 0, binding = 0) readonly buffer InputQuads { vec4 input_vec4[]; };
layout(std430, set = 0, binding = 1) writeonly buffer OutputQuads { uvec2 output_uvec2[]; };
layout(std430, set = 0, binding = 2) readonly buffer GammaQuads { vec4 gamma_vec4[]; };
layout(std430, set = 0, binding = 3) readonly buffer BetaQuads { vec4 beta_vec4[]; };
layout(std430, set = 0, binding = 4) writeonly buffer StatsPairs { vec2 stats_vec2[]; };
#ifdef ADD
layout(std430, set = 0, binding = 5) readonly buffer Branch { float branch[]; };   // [N,C]
layout(std430, set = 0, binding = 6) writeonly buffer Sum { float sum[]; };        // [N,C]
layout(std430, set = 0, binding = 5) readonly buffer BranchQuads { vec4 branch_vec4[]; };
layout(std430, set = 0, binding = 5) readonly buffer BranchHalves { uvec2 branch_uvec2[]; };
layout(std430, set = 0, binding = 6) writeonly buffer SumQuads { vec4 sum_vec4[]; };

layout(constant_id = 11) const uint BRANCH_NARROW = 0; // the branch is kept in 16 bits, [N,C/2]
#endif

layout(push_constant) uniform Push {
    uint num_positions;  // N
    uint d_model;        // C, a multiple of 4
    float eps;
    float inv_d_model;   // 1/C
} push;

vec4 element(uint at) {
    vec4 x = input_vec4[at];
#ifdef ADD
    x += BRANCH_NARROW != 0 ? widened(branch_uvec2[at]) : branch_vec4[at];
    sum_vec4[at] = x;
#endif
    return x;
}

float mean_of(vec4 part) {
    return subgroupAdd((part.x + part.y) + (part.z + part.w)) * push.inv_d_model;
}

void main() {
    uint quads = push.d_model / 4;
    for (uint row = first_row(); row < push.num_positions; row += rows_at_once()) {
        uint base = row * quads;
        vec4 x[QUADS_HERE];
        vec4 part = vec4(0.0);
        [[unroll]] for (uint i = 0; i < QUADS_HERE; ++i) {
            x[i] = quad_here(i) < quads ? element(base + quad_here(i)) : vec4(0.0);
            part += x[i];
        }
        float mean = mean_of(part);
        part = vec4(0.0);
        [[unroll]] for (uint i = 0; i < QUADS_HERE; ++i) {
            x[i] -= mean;
            if (quad_here(i) < quads) part += x[i] * x[i];
        }
        float rstd = 1.0 / sqrt(mean_of(part) + push.eps);
        [[unroll]] for (uint i = 0; i < QUADS_HERE; ++i) {
            uint q = quad_here(i);
            if (q < quads) output_uvec2[base + q] = narrowed(x[i] * rstd * gamma_vec4[q] + beta_vec4[q]);
        }
        if (gl_SubgroupInvocationID == 0) stats_vec2[row] = vec2(mean, rstd);
    }
}
