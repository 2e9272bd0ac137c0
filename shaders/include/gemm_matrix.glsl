// The body of the products on matrix units: a workgroup computes a tile of C, with A's and B's share of a few
// terms in shared memory, rounded to 16 bits on the way there, the next share on its way in registers, and the
// sums of each subgroup in small matrices.
//
// The including shader names the factors' type, FACTOR, and rounds eight floats into words: rounded(vec4, vec4).

#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_shader_subgroup_basic : require
#pragma use_vulkan_memory_model

#include "exact.glsl"

layout(std430, set = 0, binding = 0) readonly buffer A { float a[]; };       // [m, k], or [k, m] if TRANS_A
layout(std430, set = 0, binding = 1) readonly buffer B { float b[]; };       // [k, n], or [n, k] if TRANS_B
layout(std430, set = 0, binding = 2) writeonly buffer C { float c[]; };      // [m, n]
layout(std430, set = 0, binding = 3) readonly buffer Bias { float bias[]; }; // [n]
layout(std430, set = 0, binding = 0) readonly buffer AQuads { vec4 a_vec4[]; };
layout(std430, set = 0, binding = 1) readonly buffer BQuads { vec4 b_vec4[]; };
layout(std430, set = 0, binding = 2) writeonly buffer CQuads { vec4 c_vec4[]; };
// The same as pairs of 16-bit floats, if they are PACKED: four pairs, and one.
layout(std430, set = 0, binding = 0) readonly buffer AOcts { uvec4 a_uvec4[]; };
layout(std430, set = 0, binding = 1) readonly buffer BOcts { uvec4 b_uvec4[]; };
layout(std430, set = 0, binding = 2) writeonly buffer COcts { uvec4 c_uvec4[]; };
layout(std430, set = 0, binding = 0) readonly buffer APairs { uint a_uint[]; };
layout(std430, set = 0, binding = 1) readonly buffer BPairs { uint b_uint[]; };
layout(std430, set = 0, binding = 2) writeonly buffer CPairs { uint c_uint[]; };

#define BIAS(column) (push.use_bias != 0 ? bias[column] : 0.0)
#define SCALED_FACTORS
#include "gemm_free.glsl"

layout(constant_id = 9) const uint ROW_MATRICES = 4; // matrices down and across that a subgroup sums
layout(constant_id = 10) const uint COLUMN_MATRICES = 4;
layout(constant_id = 11) const uint STEP = 32;  // terms of a share, a multiple of SIDE
layout(constant_id = 12) const uint A_PACKED = 0;
layout(constant_id = 13) const uint B_PACKED = 0;
layout(constant_id = 14) const uint C_PACKED = 0;
layout(constant_id = 15) const uint SCALED = 0; // the scales are not all one
layout(constant_id = 16) const uint SIDE = 16; // rows, columns and terms of the matrices, 8 or 16
layout(constant_id = 17) const uint INVOCATIONS = 128;
layout(local_size_x_id = 18) in; // the same; at least as many subgroups as SUBGROUPS
layout(constant_id = 19) const uint SPARE = 1; // there may be more subgroups than SUBGROUPS

const uint SUBGROUPS_ACROSS = TILE_COLUMNS / (SIDE * COLUMN_MATRICES);
const uint SUBGROUPS = TILE_ROWS / (SIDE * ROW_MATRICES) * SUBGROUPS_ACROSS;

#include "gemm_matrix_fetch.glsl"
#include "gemm_matrix_store.glsl"

// What follows is unrolled by hand wherever an array of registers is indexed: drivers do not unroll all that they
// are asked to, and then such an array lies in memory.

// Adds the products of SIDE terms of a share to the sums.
#define MULTIPLY_PART(part) \
    if (part * SIDE < STEP) { \
        coopmat<FACTOR, gl_ScopeSubgroup, SIDE, SIDE, gl_MatrixUseA> left[ROW_MATRICES]; \
        [[unroll]] for (uint i = 0; i < ROW_MATRICES; ++i) { \
            uint at = left_base + left_at(i * SIDE, part * SIDE); \
            coopMatLoad(left[i], tile, at, LEFT_PITCH, LEFT_LAYOUT); \
        } \
        [[unroll]] for (uint j = 0; j < COLUMN_MATRICES; ++j) { \
            coopmat<FACTOR, gl_ScopeSubgroup, SIDE, SIDE, gl_MatrixUseB> right; \
            uint at = right_base + right_at(j * SIDE, part * SIDE); \
            coopMatLoad(right, tile, at, RIGHT_PITCH, RIGHT_LAYOUT); \
            [[unroll]] for (uint i = 0; i < ROW_MATRICES; ++i) { \
                sum[i * COLUMN_MATRICES + j] = coopMatMulAdd(left[i], right, sum[i * COLUMN_MATRICES + j]); \
            } \
        } \
    }

// Adds the share's products to the sums. Terms past the operands' ends are stored as zeros.
#define MULTIPLY \
    if (SPARE == 0 || sums) { \
        MULTIPLY_PART(0) \
        MULTIPLY_PART(1) \
        MULTIPLY_PART(2) \
        MULTIPLY_PART(3) \
    }

void main() {
    uvec2 corner = tile_corner();
    if (is_unwanted(corner.y + TILE_ROWS, corner.x)) {
        return;
    }
    bool sums = gl_SubgroupID < SUBGROUPS;
    uint row = gl_SubgroupID / SUBGROUPS_ACROSS * (SIDE * ROW_MATRICES);
    uint column = gl_SubgroupID % SUBGROUPS_ACROSS * (SIDE * COLUMN_MATRICES);

    SUM sum[ROW_MATRICES * COLUMN_MATRICES];
    [[unroll]] for (uint i = 0; i < ROW_MATRICES * COLUMN_MATRICES; ++i) {
        sum[i] = SUM(0.0);
    }
    uint left_base = left_at(row, 0);
    uint right_base = right_at(column, 0) - right_at(0, 0);
    uint first = first_term(corner.y) / STEP * STEP;
    uint count = (end_of_terms(corner.y + TILE_ROWS) - first + STEP - 1) / STEP;
    begin_at(corner, first);
    fetch_share();
    store_share();
    barrier();
    // The last share apart, so that the loop has no branch.
    for (uint t = 1; t < count; ++t) {
        fetch_share();
        MULTIPLY
        barrier();
        store_share();
        barrier();
    }
    MULTIPLY
    barrier();
    if (SPARE != 0 && !sums) {
        return;
    }
    uint c_start = batch_start(push.c_first, push.c_outer, push.c_inner);
    bool inside = WHOLE != 0
        || (WIDE_C != 0 && corner.y + TILE_ROWS <= push.m && corner.x + TILE_COLUMNS <= push.n);
    STORE_SUMS
}
