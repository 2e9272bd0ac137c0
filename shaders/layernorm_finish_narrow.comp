#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#pragma hlx fast
// Adds the workgroups' sums of layernorm_backward_narrow into the gradients of gain, bias, and of the bias that
// was added to the stream last. A workgroup takes COLUMNS columns of one of the three.
const uint COLUMNS = 32;
const uint LANES = 8;
layout(local_size_x = COLUMNS, local_size_y = LANES) in;

layout(std430, set = 0, binding = 0) readonly buffer Partials { float partials[]; };     // [groups,3,C]
layout(std430, set = 0, binding = 1) writeonly buffer DGamma { float d_gamma[]; };       // [C]
layout(std430, set = 0, binding = 2) writeonly buffer DBeta { float d_beta[]; };         // [C]
layout(std430, set = 0, binding = 3) writeonly buffer DBias { float d_bias[]; };         // [C]

layout(push_constant) uniform Push {
    uint groups;
    uint d_model;  // C
} push;

shared float sums[LANES][COLUMNS];

void main() {
    uvec2 here = gl_LocalInvocationID.xy;
    uint column = gl_WorkGroupID.x * COLUMNS + here.x;
    uint which = gl_WorkGroupID.y;
    float sum = 0.0;
    if (column < push.d_model) {
        for (uint g = here.y; g < push.groups; g += LANES) {
            sum += partials[(g * 3 + which) * push.d_model + column];
        }
    }
    sums[here.y][here.x] = sum;
    barrier();
    if (here.y != 0 || column >= push.d_model) return;
    [[unroll]] for (uint l = 1; l < LANES; ++l) sum += sums[l][here.x];
    if (which == 0) d_gamma[column] = sum;
    if (which == 1) d_beta[column] = sum;
    if (which == 2) d_bias[column] = sum;
}
