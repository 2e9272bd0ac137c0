#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
// Strided partial sums over the rows of a matrix: partials[p,c] = sum of input[p + 64 k, c], k ascending.
layout(local_size_x = 64) in;

#include "column.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Input { float input_[]; };        // [N,C]
layout(std430, set = 0, binding = 1) writeonly buffer Partials { float partials[]; };  // [64,C]

layout(push_constant) uniform Push {
    uint rows;     // N
    uint columns;  // C
} push;

void main() {
    uint i = flat_index();
    if (i >= COLUMN_LANES * push.columns) return;
    uint c = i % push.columns;
    float sum = 0.0;
    uint row = i / push.columns;
    for (; row + (AT_ONCE - 1) * COLUMN_LANES < push.rows; row += AT_ONCE * COLUMN_LANES) {
        float x[AT_ONCE];
        [[unroll]] for (uint j = 0; j < AT_ONCE; ++j) x[j] = input_[(row + j * COLUMN_LANES) * push.columns + c];
        [[unroll]] for (uint j = 0; j < AT_ONCE; ++j) sum = sum + x[j];
    }
    for (; row < push.rows; row += COLUMN_LANES) sum = sum + input_[row * push.columns + c];
    partials[i] = sum;
}
