#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_ARB_gpu_shader_int64 : require
// reduce_sum for CPU-type devices: an invocation has a row for itself.
#include "exact.glsl"
#include "eights_row.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Input { float input_[]; };     // [count]
layout(std430, set = 0, binding = 1) writeonly buffer Output { float output_[]; };  // [ceil(count/row_length)]
layout(std430, set = 0, binding = 0) readonly buffer InputEights { u64vec4 input_u64vec4[]; };

layout(push_constant) uniform Push {
    uint count;       // a multiple of eight
    uint row_length;  // a multiple of ROW_LANES
    uint square;      // 1: sum squares
} push;

void main() {
    uint row = flat_index();
    bool square = push.square != 0;
    uint base = row * push.row_length;
    if (base >= push.count) return;
    uint length = min(push.count - base, push.row_length);

    float part[ROW_LANES];
    clear(part, 0.0);
    for (uint i = 0; i < length; i += ROW_LANES)
        [[unroll]] for (uint v = 0; v < ROW_LANES; v += 8)
            if (i + v < length) {
                float x[8] = eight(input_u64vec4[(base + i + v) / 8]);
                [[unroll]] for (uint j = 0; j < 8; ++j)
                    part[v + j] = part[v + j] + (square ? x[j] * x[j] : x[j]);
            }
    output_[row] = snap_moment(row_sum(part));
}
