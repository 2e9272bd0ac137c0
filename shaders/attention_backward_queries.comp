#version 460
#extension GL_GOOGLE_include_directive : require
#pragma hlx fast
// Causal attention in f32, backward, the queries' gradient: a workgroup computes one block of queries, going
// over the blocks of keys up to the diagonal. It also writes delta, each row's sum of d_heads * heads, for
// the keys' kernel after it.
#define ROW_COUNT QUERIES
#define COLUMN_COUNT KEYS
#include "attention_tiles.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Qkv { float qkv[]; };            // [B,T,3C]
layout(std430, set = 0, binding = 1) readonly buffer Heads { float heads[]; };        // [B,T,C]
layout(std430, set = 0, binding = 2) readonly buffer DHeads { float d_heads[]; };     // [B,T,C]
layout(std430, set = 0, binding = 3) readonly buffer Lse { float lse[]; };            // [B,H,T]
layout(std430, set = 0, binding = 4) readonly buffer Step { uint step_number[]; };    // [2], as in dropout.comp
layout(std430, set = 0, binding = 5) writeonly buffer Delta { float delta[]; };       // [B,H,T]
layout(std430, set = 0, binding = 6) writeonly buffer DQkv { float d_qkv[]; };        // [B,T,3C]: the queries' part
layout(std430, set = 0, binding = 0) readonly buffer QkvQuads { vec4 qkv_vec4[]; };
layout(std430, set = 0, binding = 1) readonly buffer HeadsQuads { vec4 heads_vec4[]; };
layout(std430, set = 0, binding = 2) readonly buffer DHeadsQuads { vec4 d_heads_vec4[]; };
layout(std430, set = 0, binding = 6) writeonly buffer DQkvQuads { vec4 d_qkv_vec4[]; };

LOAD_QUAD(qkv)
LOAD_QUAD(heads)
LOAD_QUAD(d_heads)
STORE_QUAD(d_qkv)

shared vec4 q_tile[QUERIES * PITCH];
shared vec4 d_tile[QUERIES * PITCH];  // of d_heads
shared vec4 k_tile[KEYS * PITCH];
shared vec4 v_tile[KEYS * PITCH];
shared vec4 s_tile[QUERIES * SCORE_PITCH];
shared float row_delta[QUERIES];

void load_queries(uint first) {
    FILL(q_tile, QUERIES, IN_ORDER, first, load_qkv, QUERY_AT)
    FILL(d_tile, QUERIES, IN_ORDER, first, load_d_heads, heads_at)
    barrier();
    for (uint row = gl_LocalInvocationIndex; row < QUERIES; row += INVOCATIONS) {
        float sum = 0.0;
        if (first + row < push.context) {
            for (uint quad = 0; quad < QUADS; ++quad) {
                sum += dot(d_tile[row * PITCH + quad], load_heads(heads_at(first + row), 4 * quad));
            }
            delta[row_at(first + row)] = sum;
        }
        row_delta[row] = sum;
    }
}

void main() {
    // The longest rows first: they take longest.
    uint first_query = (blocks - 1 - block_index) * QUERIES;
    load_queries(first_query);
    uvec2 step = DROPOUT != 0 ? uvec2(step_number[0], step_number[1]) : uvec2(0);
    float to_base_2 = push.scale * LOG2_OF_E;
    vec4 row_lse = vec4(0.0);
    [[unroll]] for (uint i = 0; i < 4; ++i) {
        uint query = first_query + 4 * down() + i;
        if (query < push.context) row_lse[i] = lse[row_at(query)];
    }
    vec4 d_q[4 * PARTS];
    [[unroll]] for (uint n = 0; n < 4 * PARTS; ++n) d_q[n] = vec4(0.0);

    uint end = min(first_query + QUERIES, push.context);
    for (uint first_key = 0; first_key < end; first_key += KEYS) {
        barrier();
        FILL(k_tile, KEYS, slot, first_key, load_qkv, KEY_AT)
        FILL(v_tile, KEYS, slot, first_key, load_qkv, VALUE_AT)
        barrier();
        vec4 s[4], d_p[4];
        [[unroll]] for (uint i = 0; i < 4; ++i) s[i] = d_p[i] = vec4(0.0);
        ADD_PRODUCTS(s, q_tile, k_tile)
        ADD_PRODUCTS(d_p, d_tile, v_tile)
        [[unroll]] for (uint i = 0; i < 4; ++i) {
            uint query = first_query + 4 * down() + i;
            uint key = first_key + 4 * across();
            vec4 p = exp2(s[i] * to_base_2 - row_lse[i]);
            p = mix(p, vec4(0.0), greaterThan(uvec4(key, key + 1, key + 2, key + 3), uvec4(query)));
            if (DROPOUT != 0) d_p[i] *= dropout_factors(step, query, key);
            s_tile[(4 * down() + i) * SCORE_PITCH + across()] = p * (d_p[i] - row_delta[4 * down() + i]);
        }
        barrier();
        ADD_WEIGHTED(d_q, s_tile, k_tile, slot)
    }

    [[unroll]] for (uint i = 0; i < 4; ++i) {
        uint query = first_query + 4 * down() + i;
        if (query >= push.context) continue;
        [[unroll]] for (uint v = 0; v < PARTS; ++v) {
            store_d_qkv(qkv_at(0, query), 4 * (across() + v * ACROSS), d_q[i * PARTS + v] * push.scale);
        }
    }
}
