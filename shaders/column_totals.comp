#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#pragma hlx fast
// Adds sums of columns over some of the rows each. A workgroup takes COLUMNS columns.
const uint COLUMNS = 32;
const uint LANES = 8;
layout(local_size_x = COLUMNS, local_size_y = LANES) in;

layout(std430, set = 0, binding = 0) readonly buffer Partials { float partials[]; };     // [parts,C]
layout(std430, set = 0, binding = 1) writeonly buffer Output { float output_[]; };       // [C]

layout(push_constant) uniform Push {
    uint parts;
    uint columns;  // C
} push;

shared float sums[LANES][COLUMNS];

void main() {
    uvec2 here = gl_LocalInvocationID.xy;
    uint column = gl_WorkGroupID.x * COLUMNS + here.x;
    float sum = 0.0;
    if (column < push.columns) {
        for (uint p = here.y; p < push.parts; p += LANES) sum += partials[p * push.columns + column];
    }
    sums[here.y][here.x] = sum;
    barrier();
    if (here.y != 0 || column >= push.columns) return;
    [[unroll]] for (uint l = 1; l < LANES; ++l) sum += sums[l][here.x];
    output_[column] = sum;
}
