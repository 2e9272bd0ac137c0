#version 460
#extension GL_GOOGLE_include_directive : require
#pragma hlx fast
// Cross-entropy of each row of logits against its target, and the gradient of the mean loss, in one go; for
// vocabularies so large that a workgroup has work enough in a row:
//   losses[n] = log(sum_v exp(logits[n,v] - max)) + max - logits[n,target]
//   gradient[n,v] = (softmax[n,v] - [v == target]) * scale
// A row whose target is IGNORE has loss 0 and gradient 0.
layout(local_size_x_id = 2) in;
layout(constant_id = 1) const uint NARROW = 0;  // 1: the gradient is kept in 16 bits
layout(constant_id = 3) const uint KEPT = 0;    // fours of a row that an invocation keeps in registers; 0: none

#include "narrow.glsl"

const uint IGNORE = 0xFFFFFFFFu;

layout(std430, set = 0, binding = 0) readonly buffer Logits { float logits[]; };        // [N,V]
layout(std430, set = 0, binding = 1) readonly buffer Targets { uint targets[]; };       // [N]
layout(std430, set = 0, binding = 2) writeonly buffer Losses { float losses[]; };       // [N]
layout(std430, set = 0, binding = 3) writeonly buffer Gradient { float gradient[]; };   // [N,V]
layout(std430, set = 0, binding = 0) readonly buffer LogitsQuads { vec4 logits_vec4[]; };
layout(std430, set = 0, binding = 3) writeonly buffer GradientQuads { vec4 gradient_vec4[]; };
layout(std430, set = 0, binding = 3) writeonly buffer NarrowQuads { uvec2 gradient_uvec2[]; };  // [N,V/4]

layout(push_constant) uniform Push {
    uint rows;        // N
    uint vocab_size;  // V, a multiple of 4
    float scale;      // 1 / positions in the whole batch
} push;

const uint WIDTH = gl_WorkGroupSize.x;

// Largest logit of each invocation's part of the row, and the sum of exp(logit - largest).
shared vec2 parts[WIDTH];

// Two parts as one. The order is that of the indices, so the result is the same in every run.
vec2 joined(vec2 x, vec2 y) {
    float largest = max(x.x, y.x);
    return vec2(largest, x.y * exp(x.x - largest) + y.y * exp(y.x - largest));
}

// Puts down four elements of the gradient; `x` is scaled softmax.
void store(uint base, uint q, vec4 x, uint target, float scale) {
    uint hit = target - 4 * q;
    if (hit < 4) {
        x[hit] -= scale;
    }
    if (NARROW != 0) {
        gradient_uvec2[base + q] = narrowed_gradient(x);
    } else {
        gradient_vec4[base + q] = x;
    }
}

void main() {
    uint row = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
    if (row >= push.rows) {
        return;
    }
    uint lane = gl_LocalInvocationIndex;
    uint quads = push.vocab_size / 4;
    uint base = row * quads;

    // A part without elements must not make a NaN of infinity less infinity.
    vec2 part = vec2(-3.4e38, 0.0);
    vec4 kept[KEPT > 0 ? KEPT : 1];
    [[unroll]] for (uint i = 0; i < KEPT; ++i) {
        uint q = i * WIDTH + lane;
        kept[i] = q < quads ? logits_vec4[base + q] : vec4(-3.4e38);
        part.x = max(part.x, max(max(kept[i].x, kept[i].y), max(kept[i].z, kept[i].w)));
    }
    [[unroll]] for (uint i = 0; i < KEPT; ++i) {
        kept[i] = i * WIDTH + lane < quads ? exp(kept[i] - part.x) : vec4(0.0);
        part.y += (kept[i].x + kept[i].y) + (kept[i].z + kept[i].w);
    }
    for (uint q = KEPT > 0 ? quads : lane; q < quads; q += WIDTH) {
        vec4 x = logits_vec4[base + q];
        float largest = max(part.x, max(max(x.x, x.y), max(x.z, x.w)));
        vec4 e = exp(x - largest);
        part = vec2(largest, part.y * exp(part.x - largest) + ((e.x + e.y) + (e.z + e.w)));
    }
    parts[lane] = part;
    barrier();
    for (uint s = WIDTH / 2; s > 0; s /= 2) {
        if (lane < s) {
            parts[lane] = joined(parts[lane], parts[lane + s]);
        }
        barrier();
    }
    vec2 whole = parts[0];
    uint target = targets[row];
    float scale = target == IGNORE ? 0.0 : push.scale;
    float factor = scale / whole.y;
    float kept_factor = exp(part.x - whole.x) * factor;
    [[unroll]] for (uint i = 0; i < KEPT; ++i) {
        uint q = i * WIDTH + lane;
        if (q < quads) {
            store(base, q, kept[i] * kept_factor, target, scale);
        }
    }
    for (uint q = KEPT > 0 ? quads : lane; q < quads; q += WIDTH) {
        store(base, q, exp(logits_vec4[base + q] - whole.x) * factor, target, scale);
    }
    if (lane == 0) {
        losses[row] = target == IGNORE ? 0.0 : log(whole.y) + (whole.x - logits[row * push.vocab_size + target]);
    }
}
