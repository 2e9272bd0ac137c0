#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#pragma hlx fast
// Rounds a matrix to 16 bits and writes its transpose, two elements to a word: a workgroup a square of it.
layout(local_size_x = 256) in;

#include "pack.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Input { float input_[]; };    // [rows, columns]
layout(std430, set = 0, binding = 1) writeonly buffer Output { uint output_[]; };  // [columns, pitch / 2]

layout(push_constant) uniform Push {
    uint rows;
    uint columns;
    uint pitch; // elements from one row of the output to the next: rows rounded up; zeros fill it
} push;

const uint SIDE = 64;
const uint INVOCATIONS = 256;

// [column][row], one more so that the rows of a column and the columns of a row meet different banks.
shared float square[SIDE * (SIDE + 1)];

void main() {
    uvec2 corner = gl_WorkGroupID.xy * SIDE; // column, row
    [[unroll]] for (uint i = 0; i < SIDE * SIDE / INVOCATIONS; ++i) {
        uint index = gl_LocalInvocationIndex + i * INVOCATIONS;
        uvec2 at = corner + uvec2(index % SIDE, index / SIDE);
        bool inside = at.x < push.columns && at.y < push.rows;
        float x = input_[inside ? at.y * push.columns + at.x : 0];
        square[index % SIDE * (SIDE + 1) + index / SIDE] = inside ? x : 0.0;
    }
    barrier();
    [[unroll]] for (uint i = 0; i < SIDE * SIDE / 2 / INVOCATIONS; ++i) {
        uint index = gl_LocalInvocationIndex + i * INVOCATIONS;
        uint column = index / (SIDE / 2);
        uint row = index % (SIDE / 2) * 2;
        if (corner.x + column < push.columns && corner.y + row < push.pitch) {
            uint from = column * (SIDE + 1) + row;
            output_[((corner.x + column) * push.pitch + corner.y + row) / 2] = pair(square[from], square[from + 1]);
        }
    }
}
