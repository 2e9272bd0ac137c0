#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
// Strided partial sums over rows of LayerNorm's parameter gradients:
//   partials[0,p,c] = sum over rows p, p+64, ... of d_output * n,  partials[1,p,c] the same of d_output.
// column_finish adds the 64 partial sums of each column.
layout(local_size_x = 64) in;

#include "exact.glsl"
#include "column.glsl"

layout(std430, set = 0, binding = 0) readonly buffer DOutput { float d_output[]; };     // [N,C]
layout(std430, set = 0, binding = 1) readonly buffer Input { float input_[]; };         // [N,C]
layout(std430, set = 0, binding = 2) readonly buffer Stats { float stats[]; };          // [N,2]: mean, rstd
layout(std430, set = 0, binding = 3) writeonly buffer Partials { float partials[]; };   // [2,64,C]

layout(std430, set = 0, binding = 2) readonly buffer StatsPairs { vec2 stats_vec2[]; };

layout(push_constant) uniform Push {
    uint num_positions;  // N
    uint d_model;        // C
} push;

void main() {
    uint i = flat_index();
    uint size = COLUMN_LANES * push.d_model;
    if (i >= size) return;
    uint c = i % push.d_model;
    float gamma_sum = 0.0;
    float beta_sum = 0.0;
    uint row = i / push.d_model;
    for (; row + (AT_ONCE - 1) * COLUMN_LANES < push.num_positions; row += AT_ONCE * COLUMN_LANES) {
        float d[AT_ONCE];
        float x[AT_ONCE];
        vec2 of_row[AT_ONCE];
        [[unroll]] for (uint j = 0; j < AT_ONCE; ++j) {
            uint at = row + j * COLUMN_LANES;
            d[j] = d_output[at * push.d_model + c];
            x[j] = input_[at * push.d_model + c];
            of_row[j] = stats_vec2[at];
        }
        [[unroll]] for (uint j = 0; j < AT_ONCE; ++j) {
            gamma_sum = gamma_sum + d[j] * snap(snap(x[j] - of_row[j].x) * of_row[j].y);
            beta_sum = beta_sum + d[j];
        }
    }
    for (; row < push.num_positions; row += COLUMN_LANES) {
        float d = d_output[row * push.d_model + c];
        vec2 of_row = stats_vec2[row];
        float n = snap(snap(input_[row * push.d_model + c] - of_row.x) * of_row.y);
        gamma_sum = gamma_sum + d * n;
        beta_sum = beta_sum + d;
    }
    partials[i] = gamma_sum;
    partials[size + i] = beta_sum;
}
