#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
// Adds the 64 partial sums of each column over a fixed binary tree.
layout(local_size_x = 64) in;

#include "exact.glsl"
#include "column.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Partials { float partials[]; };  // [64,C]
layout(std430, set = 0, binding = 1) writeonly buffer Output { float output_[]; };    // [C]

layout(push_constant) uniform Push {
    uint columns;  // C
} push;

void main() {
    uint c = flat_index();
    if (c >= push.columns) return;
    float part[COLUMN_LANES];
    [[unroll]] for (uint p = 0; p < COLUMN_LANES; ++p) part[p] = partials[p * push.columns + c];
    [[unroll]] for (uint s = COLUMN_LANES / 2; s > 0; s >>= 1)
        [[unroll]] for (uint p = 0; p < s; ++p) part[p] = part[p] + part[p + s];
    output_[c] = snap(part[0]);
}
