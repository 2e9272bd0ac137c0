#version 460
#extension GL_GOOGLE_include_directive : require
#pragma hlx fast
// As cross_entropy_fast, by a subgroup a row, for vocabularies that are small or not of whole fours; the
// gradient's rows are kept in 16 bits, lengthened by zeros to whole eights.
#extension GL_KHR_shader_subgroup_arithmetic : require
#include "narrow_rows.glsl"

const uint IGNORE = 0xFFFFFFFFu;

layout(std430, set = 0, binding = 0) readonly buffer Logits { float logits[]; };        // [N,V]
layout(std430, set = 0, binding = 1) readonly buffer Targets { uint targets[]; };       // [N]
layout(std430, set = 0, binding = 2) writeonly buffer Losses { float losses[]; };       // [N]
layout(std430, set = 0, binding = 3) writeonly buffer Gradient { uint gradient[]; };    // [N,pairs]

layout(push_constant) uniform Push {
    uint rows;        // N
    uint vocab_size;  // V
    uint pairs;       // of a row of the gradient
    float scale;      // 1 / positions in the whole batch
} push;

void main() {
    for (uint row = first_row(); row < push.rows; row += rows_at_once()) {
        uint base = row * push.vocab_size;
        float largest = -3.4e38;
        for (uint v = gl_SubgroupInvocationID; v < push.vocab_size; v += gl_SubgroupSize) {
            largest = max(largest, logits[base + v]);
        }
        largest = subgroupMax(largest);
        float sum = 0.0;
        for (uint v = gl_SubgroupInvocationID; v < push.vocab_size; v += gl_SubgroupSize) {
            sum += exp(logits[base + v] - largest);
        }
        sum = subgroupAdd(sum);
        uint target = targets[row];
        float scale = target == IGNORE ? 0.0 : push.scale;
        float factor = scale / sum;
        for (uint p = gl_SubgroupInvocationID; p < push.pairs; p += gl_SubgroupSize) {
            vec2 x = vec2(0.0);
            [[unroll]] for (uint e = 0; e < 2; ++e) {
                uint v = 2 * p + e;
                if (v < push.vocab_size) {
                    x[e] = exp(logits[base + v] - largest) * factor - (v == target ? scale : 0.0);
                }
            }
            gradient[row * push.pairs + p] = packed_pair(x, true);
        }
        if (gl_SubgroupInvocationID == 0) {
            losses[row] = target == IGNORE ? 0.0 : log(sum) + (largest - logits[base + target]);
        }
    }
}
