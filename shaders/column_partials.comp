#version 460
#extension GL_GOOGLE_include_directive : require
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
    for (uint row = i / push.columns; row < push.rows; row += COLUMN_LANES)
        sum = sum + input_[row * push.columns + c];
    partials[i] = sum;
}
