#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#pragma hlx fast
// Rounds a matrix to 16 bits and writes its transpose, two elements to a word: a workgroup a square of it.
layout(local_size_x = 256) in;

#include "pack.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Input { float input_[]; };    // [rows, columns]
layout(std430, set = 0, binding = 1) writeonly buffer Output { uint output_[]; };  // [columns, pitch / 2]
layout(std430, set = 0, binding = 0) readonly buffer InputQuads { vec4 input_vec4[]; };
layout(std430, set = 0, binding = 1) writeonly buffer OutputQuads { uvec4 output_uvec4[]; };

layout(push_constant) uniform Push {
    uint rows;
    uint columns;
    uint pitch; // elements from one row of the output to the next: rows rounded up to eights; zeros fill it
} push;

const uint SIDE = 64;
const uint INVOCATIONS = 256;
const uint PITCH = SIDE + 1; // so that the rows of a column and the columns of a row meet different banks

shared float square[SIDE * PITCH]; // [column][row]

// Four elements side by side, zero past the matrix' end.
vec4 fetch(uint row, uint column) {
    bool inside = row < push.rows && column < push.columns;
    if (push.columns % 4 == 0) {
        vec4 x = input_vec4[inside ? (row * push.columns + column) / 4 : 0];
        return inside ? x : vec4(0.0);
    }
    vec4 x = vec4(0.0);
    [[unroll]] for (uint i = 0; i < 4; ++i) {
        if (inside && column + i < push.columns) {
            x[i] = input_[row * push.columns + column + i];
        }
    }
    return x;
}

void main() {
    uvec2 corner = gl_WorkGroupID.xy * SIDE; // column, row
    vec4 quads[SIDE * SIDE / 4 / INVOCATIONS];
    [[unroll]] for (uint i = 0; i < SIDE * SIDE / 4 / INVOCATIONS; ++i) {
        uint index = gl_LocalInvocationIndex + i * INVOCATIONS;
        quads[i] = fetch(corner.y + index / (SIDE / 4), corner.x + index % (SIDE / 4) * 4);
    }
    [[unroll]] for (uint i = 0; i < SIDE * SIDE / 4 / INVOCATIONS; ++i) {
        uint index = gl_LocalInvocationIndex + i * INVOCATIONS;
        [[unroll]] for (uint j = 0; j < 4; ++j) {
            square[(index % (SIDE / 4) * 4 + j) * PITCH + index / (SIDE / 4)] = quads[i][j];
        }
    }
    barrier();
    [[unroll]] for (uint i = 0; i < SIDE * SIDE / 8 / INVOCATIONS; ++i) {
        uint index = gl_LocalInvocationIndex + i * INVOCATIONS;
        uint column = index / (SIDE / 8);
        uint row = index % (SIDE / 8) * 8;
        if (corner.x + column < push.columns && corner.y + row < push.pitch) {
            uvec4 x;
            [[unroll]] for (uint j = 0; j < 4; ++j) {
                uint from = column * PITCH + row + 2 * j;
                x[j] = pair(square[from], square[from + 1]);
            }
            output_uvec4[((corner.x + column) * push.pitch + corner.y + row) / 8] = x;
        }
    }
}
