// What the fused attention kernels on matrix units share. A workgroup's block of scores is ROW_COUNT x
// COLUMN_COUNT; each subgroup owns a tile of 16 rows. The rows' factors stay in its matrices, and what belongs
// to the columns goes through shared memory, rounded to 16 bits as it is stored there. How a device lays a
// matrix out over a subgroup is unknown, so what needs rows or columns goes through scratch memory, or takes
// numbers of rows and columns from matrices of the same kind.
//
// The including shader defines ROW_COUNT and COLUMN_COUNT, and FACTOR_BF16 for factors of that type.
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_EXT_control_flow_attributes : require
#ifdef FACTOR_BF16
#extension GL_EXT_bfloat16 : require
#define FACTOR bfloat16_t
#else
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#define FACTOR float16_t
#endif

#include "attention.glsl"

layout(local_size_x = 128, local_size_x_id = 0) in;

const uint SIDE = 16;
#define LEFT_MATRIX coopmat<FACTOR, gl_ScopeSubgroup, SIDE, SIDE, gl_MatrixUseA>
#define RIGHT_MATRIX coopmat<FACTOR, gl_ScopeSubgroup, SIDE, SIDE, gl_MatrixUseB>
#define SUM_MATRIX coopmat<float, gl_ScopeSubgroup, SIDE, SIDE, gl_MatrixUseAccumulator>

const int ROW_MAJOR = gl_CooperativeMatrixLayoutRowMajor;
const int COLUMN_MAJOR = gl_CooperativeMatrixLayoutColumnMajor;

const uint ROW_TILES = ROW_COUNT / SIDE;
const uint COLUMN_TILES = COLUMN_COUNT / SIDE;
const uint DEPTH = CHANNELS / SIDE;
const uint EIGHTS = CHANNELS / 8;
const uint PITCH = EIGHTS + 1;         // of a staged row, in uvec4s: eight factors each
const uint SCRATCH_PITCH = SIDE / 4 + 1;  // of a row of sums, in vec4s
const uint PACKED_PITCH = SIDE / 8 + 1;   // of a row of factors, in uvec4s

const uint STAGED_ROWS = 2 * COLUMN_COUNT > ROW_COUNT ? 2 * COLUMN_COUNT : ROW_COUNT;
shared uvec4 staged[STAGED_ROWS * PITCH];
shared vec4 sums[ROW_TILES * SIDE * SCRATCH_PITCH];
shared uvec4 packed[ROW_TILES * SIDE * PACKED_PITCH];
shared float row_values[ROW_TILES * SIDE];
shared float numbers[SIDE];

#ifdef FACTOR_BF16
// The nearest bf16, ties to even, in the high half of the word; NaN stays NaN.
uint round_to_bf16(float x) {
    uint bits = floatBitsToUint(x);
    uint rounded = bits + 0x7fffu + (bits >> 16 & 1u);
    return isnan(x) ? 0x7fc00000u : rounded;
}

uint pack_two(float low, float high) {
    return round_to_bf16(low) >> 16 | round_to_bf16(high) & 0xffff0000u;
}
#else
uint pack_two(float low, float high) {
    return packHalf2x16(vec2(low, high));
}
#endif

uvec4 pack_eight(vec4 a, vec4 b) {
    return uvec4(pack_two(a.x, a.y), pack_two(a.z, a.w), pack_two(b.x, b.y), pack_two(b.z, b.w));
}

// Stages the channels of `rows` positions from `first` on, times a number, from row `place` of the stage on.
#define STAGE(place, rows, first, load, at, times)                                       \
    for (uint n_ = gl_LocalInvocationIndex; n_ < (rows) * EIGHTS; n_ += gl_WorkGroupSize.x) { \
        uint row_ = n_ / EIGHTS;                                                         \
        uint channel_ = n_ % EIGHTS * 8;                                                 \
        uint position_ = (first) + row_;                                                 \
        uvec4 eight_ = uvec4(0);                                                         \
        if (position_ < push.context) {                                                  \
            uint at_ = at(position_);                                                    \
            eight_ = pack_eight(load(at_, channel_) * (times), load(at_, channel_ + 4) * (times)); \
        }                                                                                \
        staged[((place) + row_) * PITCH + n_ % EIGHTS] = eight_;                         \
    }

#define QUERY_AT(position) qkv_at(0, position)
#define KEY_AT(position) qkv_at(1, position)
#define VALUE_AT(position) qkv_at(2, position)

// Sixteen staged rows from `row` on, as left factors: all channels.
void load_left(out LEFT_MATRIX left[DEPTH], uint row) {
    [[unroll]] for (uint c = 0; c < DEPTH; ++c) {
        coopMatLoad(left[c], staged, row * PITCH + 2 * c, PITCH, ROW_MAJOR);
    }
}

// left times the transpose of sixteen staged rows from `row` on: sums over all channels.
SUM_MATRIX multiply_transposed(LEFT_MATRIX left[DEPTH], uint row) {
    SUM_MATRIX sum = SUM_MATRIX(0.0);
    [[unroll]] for (uint c = 0; c < DEPTH; ++c) {
        RIGHT_MATRIX right;
        coopMatLoad(right, staged, row * PITCH + 2 * c, PITCH, COLUMN_MAJOR);
        sum = coopMatMulAdd(left[c], right, sum);
    }
    return sum;
}

// sum += left times sixteen staged rows from `row` on.
void add_weighted(inout SUM_MATRIX sum[DEPTH], LEFT_MATRIX left, uint row) {
    [[unroll]] for (uint c = 0; c < DEPTH; ++c) {
        RIGHT_MATRIX right;
        coopMatLoad(right, staged, row * PITCH + 2 * c, PITCH, ROW_MAJOR);
        sum[c] = coopMatMulAdd(left, right, sum[c]);
    }
}

// The memory that a subgroup's tile shares among its invocations alone.
void store_sums(SUM_MATRIX x, uint tile) {
    subgroupBarrier();
    coopMatStore(x, sums, tile * SIDE * SCRATCH_PITCH, SCRATCH_PITCH, ROW_MAJOR);
    subgroupBarrier();
}

// Sums as left factors, rounded.
LEFT_MATRIX to_left(SUM_MATRIX x, uint tile) {
    store_sums(x, tile);
    uint from = tile * SIDE * SCRATCH_PITCH;
    uint to = tile * SIDE * PACKED_PITCH;
    for (uint n = gl_SubgroupInvocationID; n < 2 * SIDE; n += gl_SubgroupSize) {
        uint at = from + n / 2 * SCRATCH_PITCH + n % 2 * 2;
        packed[to + n / 2 * PACKED_PITCH + n % 2] = pack_eight(sums[at], sums[at + 1]);
    }
    subgroupBarrier();
    LEFT_MATRIX left;
    coopMatLoad(left, packed, to, PACKED_PITCH, ROW_MAJOR);
    return left;
}

// What row_values holds, each row's value in all columns.
SUM_MATRIX spread_over_columns(uint tile) {
    SUM_MATRIX x;
    coopMatLoad(x, row_values, tile * SIDE, 0, COLUMN_MAJOR);
    return x;
}

// Each row's largest number, in all columns.
SUM_MATRIX largest_of_rows(SUM_MATRIX x, uint tile) {
    store_sums(x, tile);
    for (uint row = gl_SubgroupInvocationID; row < SIDE; row += gl_SubgroupSize) {
        uint at = (tile * SIDE + row) * SCRATCH_PITCH;
        vec4 four = max(max(sums[at], sums[at + 1]), max(sums[at + 2], sums[at + 3]));
        row_values[tile * SIDE + row] = max(max(four.x, four.y), max(four.z, four.w));
    }
    subgroupBarrier();
    return spread_over_columns(tile);
}

// Each row's sum, in all columns.
SUM_MATRIX sum_of_rows(SUM_MATRIX x, uint tile) {
    store_sums(x, tile);
    for (uint row = gl_SubgroupInvocationID; row < SIDE; row += gl_SubgroupSize) {
        uint at = (tile * SIDE + row) * SCRATCH_PITCH;
        vec4 four = (sums[at] + sums[at + 1]) + (sums[at + 2] + sums[at + 3]);
        row_values[tile * SIDE + row] = (four.x + four.y) + (four.z + four.w);
    }
    subgroupBarrier();
    return spread_over_columns(tile);
}

// Dropout's factors of sixteen queries and keys; queries in rows, or in columns if transposed.
SUM_MATRIX dropout_tile(uvec2 step, uint first_query, uint first_key, int layout_, uint tile) {
    uint base = tile * SIDE * SCRATCH_PITCH;
    subgroupBarrier();
    for (uint n = gl_SubgroupInvocationID; n < 4 * SIDE; n += gl_SubgroupSize) {
        sums[base + n / 4 * SCRATCH_PITCH + n % 4] =
            dropout_factors(step, first_query + n / 4, first_key + n % 4 * 4);
    }
    subgroupBarrier();
    SUM_MATRIX x;
    if (layout_ == ROW_MAJOR) {
        coopMatLoad(x, sums, base, SCRATCH_PITCH, ROW_MAJOR);
    } else {
        coopMatLoad(x, sums, base, SCRATCH_PITCH, COLUMN_MAJOR);
    }
    return x;
}

void write_numbers() {
    if (gl_LocalInvocationIndex < SIDE) numbers[gl_LocalInvocationIndex] = float(gl_LocalInvocationIndex);
}

// Of each element, column - row: above `first row - first column` lies what is past the diagonal.
SUM_MATRIX columns_less_rows() {
    SUM_MATRIX rows, columns;
    coopMatLoad(rows, numbers, 0, 0, COLUMN_MAJOR);
    coopMatLoad(columns, numbers, 0, 0, ROW_MAJOR);
    return columns - rows;
}

// Stores sixteen rows of sums from position `first` on, as far as there are positions.
#define STORE_ROWS(name, at, sum, first, tile)                                           \
    [[unroll]] for (uint c_ = 0; c_ < DEPTH; ++c_) {                                     \
        if ((first) + SIDE <= push.context) {                                            \
            coopMatStore(sum[c_], name##_vec4, (at(first) + c_ * SIDE) / 4, (at((first) + 1) - at(first)) / 4, \
                         ROW_MAJOR);                                                     \
        } else {                                                                         \
            store_sums(sum[c_], tile);                                                   \
            for (uint n_ = gl_SubgroupInvocationID; n_ < 4 * SIDE; n_ += gl_SubgroupSize) { \
                if ((first) + n_ / 4 < push.context) {                                   \
                    name##_vec4[(at((first) + n_ / 4) + c_ * SIDE) / 4 + n_ % 4] =       \
                        sums[((tile) * SIDE + n_ / 4) * SCRATCH_PITCH + n_ % 4];         \
                }                                                                        \
            }                                                                            \
        }                                                                                \
    }
