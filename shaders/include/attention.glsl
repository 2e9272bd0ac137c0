// What the fused attention kernels share. Queries, keys and values lie side by side in qkv [B,T,3C], each
// head's D channels together; a workgroup works on one head of one sequence. Nothing of
// size T x T is stored: a row's probabilities are calculated again from its log-sum-exp, which the forward
// pass keeps, in units of base 2: p = 2^(scale * log2(e) * s - lse).
//
// The including shader declares qkv and qkv_vec4.
#extension GL_EXT_control_flow_attributes : require
#include "philox.glsl"

layout(constant_id = 1) const uint QUERIES = 32;   // rows of a block of queries
layout(constant_id = 2) const uint KEYS = 32;      // rows of a block of keys
layout(constant_id = 3) const uint CHANNELS = 64;  // D, rounded up; the channels past D are zeros
layout(constant_id = 4) const uint WIDE = 1;       // 1: every head's channels can be loaded by fours
layout(constant_id = 5) const uint DROPOUT = 0;    // 1: probabilities are dropped
layout(constant_id = 6) const uint SIDE = 16;      // of the matrices that matrix units multiply
layout(constant_id = 7) const uint INVOCATIONS = 64;  // of a workgroup
layout(constant_id = 8) const uint PREFETCH = 0;      // 1: a block is fetched while another is worked on
layout(constant_id = 9) const uint AT_ONCE = 1;       // tiles of a block's columns that are worked on at once
layout(constant_id = 10) const uint HEADS = 0;         // heads that are worked on at a time; 0: all
layout(constant_id = 11) const uint PACKED = 0;        // 1: tensors hold two 16-bit floats a word
layout(constant_id = 12) const uint OWN = 1;           // tiles of rows that a subgroup owns

layout(push_constant) uniform Push {
    uint context;      // T
    uint n_head;       // H
    uint d_head;       // D
    float scale;       // 1/sqrt(D)
    uint seed_low;     // this and what follows: of dropout, as for dropout.comp
    uint seed_high;
    uint purpose;
    uint threshold;
    float keep_scale;  // 1/(1-p)
    float gradient_scale;  // powers of two by which gradients are multiplied while they are 16-bit floats,
    float score_scale;     // and by which those of scores are once more
} push;

const float LOG2_OF_E = 1.4426950408889634;
const float LOWEST = -1e30;  // of a score that is masked

// Which head of which sequence, and which block, a workgroup works on: block by block over as many heads as
// are worked on at a time, so that what they read stays in the cache. The including shader defines ROW_COUNT,
// rows of a block. (gl_NumWorkGroups.y counts a part of the blocks where a dispatch is cut.)
uint blocks = (push.context + ROW_COUNT - 1) / ROW_COUNT;
uint groups_before = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
uint heads_at_a_time = HEADS == 0 ? gl_NumWorkGroups.x : HEADS;
uint first_head = groups_before / (heads_at_a_time * blocks) * heads_at_a_time;
uint heads_together = min(heads_at_a_time, gl_NumWorkGroups.x - first_head);
uint place_in_heads = groups_before - first_head * blocks;
uint batch_head = first_head + place_in_heads % heads_together;
uint block_index = place_in_heads / heads_together;

uint head = batch_head % push.n_head;
uint first_position = batch_head / push.n_head * push.context;

// Where the channels of a position begin: queries (0), keys (1) or values (2) in qkv.
uint qkv_at(uint which, uint position) {
    return (((first_position + position) * 3 + which) * push.n_head + head) * push.d_head;
}

// The same in a tensor [B,T,C].
uint heads_at(uint position) {
    return ((first_position + position) * push.n_head + head) * push.d_head;
}

#define QUERY_AT(position) qkv_at(0, position)
#define KEY_AT(position) qkv_at(1, position)
#define VALUE_AT(position) qkv_at(2, position)

// The place of a query's row in tensors [B,H,T].
uint row_at(uint query) {
    return batch_head * push.context + query;
}

// Four channels from `channel` on, a multiple of 4, of the position whose channels begin at `at`.
#define LOAD_QUAD(name)                                                                   \
    vec4 load_##name(uint at, uint channel) {                                             \
        if (WIDE != 0) {                                                                  \
            return channel < push.d_head ? name##_vec4[(at + channel) / 4] : vec4(0.0);   \
        }                                                                                 \
        vec4 x = vec4(0.0);                                                               \
        for (uint i = 0; i < 4; ++i) {                                                    \
            if (channel + i < push.d_head) x[i] = name[at + channel + i];                 \
        }                                                                                 \
        return x;                                                                         \
    }

#define STORE_QUAD(name)                                                                  \
    void store_##name(uint at, uint channel, vec4 x) {                                    \
        if (WIDE != 0) {                                                                  \
            if (channel < push.d_head) name##_vec4[(at + channel) / 4] = x;               \
            return;                                                                       \
        }                                                                                 \
        for (uint i = 0; i < 4; ++i) {                                                    \
            if (channel + i < push.d_head) name[at + channel + i] = x[i];                 \
        }                                                                                 \
    }

// The factors by which dropout multiplies the probabilities of four keys from `key`, a multiple of 4: 0 or
// keep_scale, by the random words of their places in [B,H,T,T], as dropout.comp draws them.
vec4 dropout_factors(uvec2 step_number, uint query, uint key) {
    uvec2 seed = uvec2(push.seed_low, push.seed_high);
    uvec4 words;
    if (push.context % 4 == 0) {
        uint block = row_at(query) * (push.context / 4) + key / 4;
        words = random_words(seed, push.purpose, step_number, block);
    } else {
        uint first = row_at(query) * push.context + key;
        for (uint i = 0; i < 4; ++i) {
            words[i] = random_u32(seed, push.purpose, step_number, first + i);
        }
    }
    return mix(vec4(push.keep_scale), vec4(0.0), lessThan(words, uvec4(push.threshold)));
}
