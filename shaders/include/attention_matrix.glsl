// What the fused attention kernels on matrix units share. A workgroup's block of scores is ROW_COUNT x
// COLUMN_COUNT; each subgroup owns a tile of SIDE rows. The rows' factors stay in its matrices, and what belongs
// to the columns goes through shared memory, rounded to 16 bits as it is stored there. How a device lays a
// matrix out over a subgroup is unknown, so what needs rows or columns goes through scratch memory, or takes
// numbers of rows and columns from matrices of the same kind.
//
// The including shader defines ROW_COUNT and COLUMN_COUNT; FACTOR_BF16 for factors of that type; IN_REGISTERS
// where sums become factors, and rows are reduced, without memory (conversions and reductions of
// VK_NV_cooperative_matrix2).
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_basic : require
#ifdef FACTOR_BF16
#extension GL_EXT_bfloat16 : require
#define FACTOR bfloat16_t
#else
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#define FACTOR float16_t
#endif

#include "attention.glsl"

layout(local_size_x = 128, local_size_x_id = 0) in;

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
// Scratch memory of each tile, and of all subgroups that have none.
const uint SCRATCHES = ROW_TILES + 1;
shared vec4 sums[SCRATCHES * SIDE * SCRATCH_PITCH];
shared float row_values[SCRATCHES * SIDE];
shared float numbers[SIDE];

// Whether work need be done that one subgroup may do without the others. Where subgroups meet at barriers of
// their own, all do all the work: some devices make those the workgroup's.
#ifdef IN_REGISTERS
#define NEEDED(condition) (DROPOUT != 0 || (condition))
#else
#define NEEDED(condition) true
#endif

#ifdef FACTOR_BF16
float bounded(float x) {
    return x;
}

// The nearest number of 8 significant digits, ties to even: conversions may cut digits off instead.
float nearest(float x) {
    precise float spread = x * 65537.0;
    precise float rest = spread - x;
    precise float rounded = spread - rest;
    return rounded;
}

uint pack_two(float low, float high) {
    return floatBitsToUint(nearest(low)) >> 16 | floatBitsToUint(nearest(high)) & 0xffff0000u;
}

vec2 unpack_two(uint pair) {
    return vec2(uintBitsToFloat(pair << 16), uintBitsToFloat(pair & 0xffff0000u));
}
#else
// Finite gradients stay finite: one that is cut is worth more than the run's end.
float bounded(float x) {
    const float LARGEST = 65504.0;
    return abs(x) > LARGEST && !isinf(x) ? (x < 0.0 ? -LARGEST : LARGEST) : x;
}

float nearest(float x) {
    return x;
}

uint pack_two(float low, float high) {
    return packHalf2x16(vec2(low, high));
}

vec2 unpack_two(uint pair) {
    return unpackHalf2x16(pair);
}
#endif

uvec4 pack_eight(vec4 a, vec4 b) {
    return uvec4(pack_two(a.x, a.y), pack_two(a.z, a.w), pack_two(b.x, b.y), pack_two(b.z, b.w));
}

vec4 bounded(vec4 x) {
    return vec4(bounded(x.x), bounded(x.y), bounded(x.z), bounded(x.w));
}

// Eight channels from `channel` on, a multiple of 8, of the position whose channels begin at `at`, as factors.
#define LOAD_EIGHT(name)                                                                  \
    uvec4 load_##name(uint at, uint channel) {                                           \
        uint n = at + channel;                                                           \
        return PACKED != 0 ? name##_uvec4[n / 8] : pack_eight(name##_vec4[n / 4], name##_vec4[n / 4 + 1]); \
    }

// The same of a gradient, which is scaled if it is not packed yet.
#define LOAD_EIGHT_OF_GRADIENT(name)                                                      \
    uvec4 load_##name(uint at, uint channel) {                                           \
        uint n = at + channel;                                                           \
        if (PACKED != 0) return name##_uvec4[n / 8];                                     \
        return pack_eight(bounded(name##_vec4[n / 4] * push.gradient_scale),             \
                          bounded(name##_vec4[n / 4 + 1] * push.gradient_scale));        \
    }

// Stores eight channels; those of gradients are scaled.
#define STORE_EIGHT(name)                                                                 \
    void store_##name(uint at, uint channel, vec4 low, vec4 high) {                      \
        uint n = at + channel;                                                           \
        if (PACKED != 0) {                                                               \
            name##_uvec4[n / 8] = pack_eight(bounded(low), bounded(high));               \
        } else {                                                                         \
            name##_vec4[n / 4] = low;                                                    \
            name##_vec4[n / 4 + 1] = high;                                               \
        }                                                                                \
    }

// What a result that is a gradient is multiplied by.
float unscaled() {
    return PACKED != 0 ? 1.0 : 1.0 / push.gradient_scale;
}

// Stages the channels of `rows` positions from `first` on from row `place` of the stage on, zeros past the last
// one. No branches, so that the loads overlap.
#define STAGE(place, rows, first, load, at)                                                          \
    [[unroll]] for (uint f_ = 0; f_ < ((rows) * EIGHTS + INVOCATIONS - 1) / INVOCATIONS; ++f_) {      \
        uint n_ = f_ * INVOCATIONS + gl_LocalInvocationIndex;                                        \
        uint row_ = n_ / EIGHTS;                                                                     \
        if ((rows) * EIGHTS % INVOCATIONS == 0 || row_ < (rows)) {                                   \
            uvec4 eight_ = load(at(min((first) + row_, push.context - 1)), n_ % EIGHTS * 8);         \
            staged[((place) + row_) * PITCH + n_ % EIGHTS] = (first) + row_ < push.context ? eight_ : uvec4(0); \
        }                                                                                            \
    }

// The same for the 2 * COLUMN_COUNT rows that belong to a block's columns, in two parts: first they are fetched,
// then, when nobody needs the block before any more, stored. fetch_eight gives eight channels of a position, of
// the first or the second of what belongs to columns.
uvec4 fetch_eight(bool second, uint position, uint channel);

const uint FETCHES = (2 * COLUMN_COUNT * EIGHTS + INVOCATIONS - 1) / INVOCATIONS;
uvec4 fetched[FETCHES];

void fetch_columns(uint first) {
    [[unroll]] for (uint f = 0; f < FETCHES; ++f) {
        uint n = f * INVOCATIONS + gl_LocalInvocationIndex;
        uint row = n / EIGHTS;
        uint position = min(first + row % COLUMN_COUNT, push.context - 1);
        fetched[f] = fetch_eight(row >= COLUMN_COUNT, position, n % EIGHTS * 8);
    }
}

void store_columns(uint first) {
    [[unroll]] for (uint f = 0; f < FETCHES; ++f) {
        uint n = f * INVOCATIONS + gl_LocalInvocationIndex;
        uint row = n / EIGHTS;
        if (2 * COLUMN_COUNT * EIGHTS % INVOCATIONS == 0 || row < 2 * COLUMN_COUNT) {
            bool there = first + row % COLUMN_COUNT < push.context;
            staged[row * PITCH + n % EIGHTS] = there ? fetched[f] : uvec4(0);
        }
    }
}

// What follows are not functions, because arrays of matrices would be copied on the way in and out.

// A tile of staged rows from `row` on, as left factors: all channels.
#define LOAD_LEFT(left, row)                                                             \
    [[unroll]] for (uint c_ = 0; c_ < DEPTH; ++c_) {                                     \
        coopMatLoad(left[c_], staged, (row) * PITCH + c_ * SIDE / 8, PITCH, ROW_MAJOR);  \
    }

// sum = left times the transpose of a tile of staged rows from `row` on: sums over all channels.
#define MULTIPLY_TRANSPOSED(sum, left, row)                                              \
    sum = SUM_MATRIX(0.0);                                                               \
    [[unroll]] for (uint c_ = 0; c_ < DEPTH; ++c_) {                                     \
        RIGHT_MATRIX right_;                                                             \
        coopMatLoad(right_, staged, (row) * PITCH + c_ * SIDE / 8, PITCH, COLUMN_MAJOR); \
        sum = coopMatMulAdd(left[c_], right_, sum);                                      \
    }

// sum += left times a tile of staged rows from `row` on.
#define ADD_WEIGHTED(sum, left, row)                                                     \
    {                                                                                    \
        LEFT_MATRIX left_ = left;                                                        \
        [[unroll]] for (uint c_ = 0; c_ < DEPTH; ++c_) {                                 \
            RIGHT_MATRIX right_;                                                         \
            coopMatLoad(right_, staged, (row) * PITCH + c_ * SIDE / 8, PITCH, ROW_MAJOR); \
            sum[c_] = coopMatMulAdd(left_, right_, sum[c_]);                             \
        }                                                                                \
    }

// The memory that a subgroup's tile shares among its invocations alone.
void store_sums(SUM_MATRIX x, uint tile) {
    subgroupBarrier();
    coopMatStore(x, sums, tile * SIDE * SCRATCH_PITCH, SCRATCH_PITCH, ROW_MAJOR);
    subgroupBarrier();
}

// What row_values holds, each row's value in all columns.
SUM_MATRIX spread_over_columns(uint tile) {
    SUM_MATRIX x;
    coopMatLoad(x, row_values, tile * SIDE, 0, COLUMN_MAJOR);
    return x;
}

#ifdef IN_REGISTERS
LEFT_MATRIX to_left(SUM_MATRIX x, uint tile) {
    [[unroll]] for (uint i = 0; i < x.length(); ++i) x[i] = nearest(x[i]);
    return LEFT_MATRIX(x);
}

float larger(const in float a, const in float b) {
    return max(a, b);
}

float added(const in float a, const in float b) {
    return a + b;
}

SUM_MATRIX largest_of_rows(SUM_MATRIX x, uint tile) {
    SUM_MATRIX y;
    coopMatReduceNV(y, x, gl_CooperativeMatrixReduceRowNV, larger);
    return y;
}

SUM_MATRIX sum_of_rows(SUM_MATRIX x, uint tile) {
    SUM_MATRIX y;
    coopMatReduceNV(y, x, gl_CooperativeMatrixReduceRowNV, added);
    return y;
}
#else
shared uvec4 packed[SCRATCHES * SIDE * PACKED_PITCH];

// Sums as left factors, rounded.
LEFT_MATRIX to_left(SUM_MATRIX x, uint tile) {
    store_sums(x, tile);
    uint from = tile * SIDE * SCRATCH_PITCH;
    uint to = tile * SIDE * PACKED_PITCH;
    const uint EIGHTS_HERE = SIDE / 8;
    for (uint n = gl_SubgroupInvocationID; n < EIGHTS_HERE * SIDE; n += gl_SubgroupSize) {
        uint row = n / EIGHTS_HERE;
        uint at = from + row * SCRATCH_PITCH + n % EIGHTS_HERE * 2;
        packed[to + row * PACKED_PITCH + n % EIGHTS_HERE] = pack_eight(sums[at], sums[at + 1]);
    }
    subgroupBarrier();
    LEFT_MATRIX left;
    coopMatLoad(left, packed, to, PACKED_PITCH, ROW_MAJOR);
    return left;
}

// Each row's largest number, in all columns.
SUM_MATRIX largest_of_rows(SUM_MATRIX x, uint tile) {
    store_sums(x, tile);
    for (uint row = gl_SubgroupInvocationID; row < SIDE; row += gl_SubgroupSize) {
        uint at = (tile * SIDE + row) * SCRATCH_PITCH;
        vec4 four = sums[at];
        [[unroll]] for (uint n = 1; n < SIDE / 4; ++n) four = max(four, sums[at + n]);
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
        vec4 four = sums[at];
        [[unroll]] for (uint n = 1; n < SIDE / 4; ++n) four += sums[at + n];
        row_values[tile * SIDE + row] = (four.x + four.y) + (four.z + four.w);
    }
    subgroupBarrier();
    return spread_over_columns(tile);
}
#endif

// Dropout's factors of a tile of queries and keys; queries in rows, or in columns if transposed.
SUM_MATRIX dropout_tile(uvec2 step, uint first_query, uint first_key, int layout_, uint tile) {
    uint base = tile * SIDE * SCRATCH_PITCH;
    subgroupBarrier();
    const uint QUADS_HERE = SIDE / 4;
    for (uint n = gl_SubgroupInvocationID; n < QUADS_HERE * SIDE; n += gl_SubgroupSize) {
        uint row = n / QUADS_HERE;
        uint quad = n % QUADS_HERE;
        sums[base + row * SCRATCH_PITCH + quad] = dropout_factors(step, first_query + row, first_key + 4 * quad);
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

// Stores a tile of rows of sums from position `first` on, as far as there are positions.
#define STORE_ROWS(name, at, sum, first, tile)                                           \
    [[unroll]] for (uint c_ = 0; c_ < DEPTH; ++c_) {                                     \
        store_sums(sum[c_], tile);                                                       \
        for (uint n_ = gl_SubgroupInvocationID; n_ < SIDE / 8 * SIDE; n_ += gl_SubgroupSize) { \
            uint row_ = n_ / (SIDE / 8);                                                 \
            uint eight_ = n_ % (SIDE / 8);                                               \
            if ((tile) < ROW_TILES && (first) + row_ < push.context) {                   \
                uint from_ = ((tile) * SIDE + row_) * SCRATCH_PITCH + 2 * eight_;        \
                store_##name(at((first) + row_), c_ * SIDE + 8 * eight_, sums[from_], sums[from_ + 1]); \
            }                                                                            \
        }                                                                                \
    }
