#version 460
#extension GL_GOOGLE_include_directive : require
// Sums of consecutive rows of row_length elements (the last may be shorter), of the elements or of
// their squares. A long array is summed by applying it again to its own output.
#include "exact.glsl"
#include "row.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Input { float input_[]; };     // [count]
layout(std430, set = 0, binding = 1) writeonly buffer Output { float output_[]; };  // [ceil(count/row_length)]

layout(push_constant) uniform Push {
    uint count;
    uint row_length;
    uint square;  // 1: sum squares
} push;

void main() {
    uint row = row_index();
    uint rows = (push.count + push.row_length - 1) / push.row_length;
    bool live = row < rows;
    uint base = live ? row * push.row_length : 0;
    uint length = push.count - base < push.row_length ? push.count - base : push.row_length;

    float part[ROW_LANES];
    for (uint l = 0; l < LANES_HERE; ++l) {
        part[l] = 0.0;
        for (uint i = lane(l); i < length; i += ROW_LANES) {
            float x = input_[base + i];
            part[l] = part[l] + (push.square != 0 ? x * x : x);
        }
    }
    float sum = row_sum(part);
    if (live && gl_LocalInvocationID.x == 0) output_[row] = snap_moment(sum);
}
