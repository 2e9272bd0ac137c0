// Tiles in shared memory for the fused attention kernels in f32. An invocation computes 4 x 4 scores of a
// block: rows 4 * down to 4 * down + 3 and columns 4 * across to 4 * across + 3. A tile's rows are stored by
// fours of channels, one four more than there are, and for columns in the order of `slot`, so that
// invocations side by side read from different banks.
//
// The including shader defines ROW_COUNT and COLUMN_COUNT, rows and columns of a block of scores.
#include "attention.glsl"

layout(local_size_x = 64, local_size_x_id = 0) in;

const uint DOWN = ROW_COUNT / 4;
const uint ACROSS = COLUMN_COUNT / 4;
const uint QUADS = CHANNELS / 4;
const uint PITCH = QUADS + 1;
const uint SCORE_PITCH = ACROSS + 1;
const uint PARTS = QUADS / ACROSS;  // fours of channels that an invocation computes of each of its rows

uint down() {
    return gl_LocalInvocationIndex / ACROSS;
}

uint across() {
    return gl_LocalInvocationIndex % ACROSS;
}

// Where a tile keeps a column of the scores.
uint slot(uint column) {
    return column % 4 * ACROSS + column / 4;
}

// Fills a tile with the channels of `rows` positions from `first` on, zeros past the last one; row r goes to
// place(r). No branches, so that the loads overlap.
#define FILL(tile, rows, place, first, load, at)                                                      \
    [[unroll]] for (uint f_ = 0; f_ < ((rows) * QUADS + INVOCATIONS - 1) / INVOCATIONS; ++f_) {       \
        uint n_ = f_ * INVOCATIONS + gl_LocalInvocationIndex;                                         \
        uint row_ = n_ / QUADS;                                                                       \
        uint quad_ = n_ % QUADS;                                                                      \
        if ((rows) * QUADS % INVOCATIONS == 0 || row_ < (rows)) {                                     \
            uint position_ = (first) + row_;                                                          \
            vec4 x_ = load(at(min(position_, push.context - 1)), 4 * quad_);                          \
            tile[place(row_) * PITCH + quad_] = position_ < push.context ? x_ : vec4(0.0);            \
        }                                                                                             \
    }

// sum[i][j] += row i of left times column j of right, over all channels. Both are tiles in shared memory.
#define ADD_PRODUCTS(sum, left, right)                                                                \
    [[dont_unroll]] for (uint c_ = 0; c_ < QUADS; ++c_) {                                             \
        vec4 columns_[4];                                                                             \
        [[unroll]] for (uint j_ = 0; j_ < 4; ++j_) {                                                  \
            columns_[j_] = right[(j_ * ACROSS + across()) * PITCH + c_];                              \
        }                                                                                             \
        [[unroll]] for (uint i_ = 0; i_ < 4; ++i_) {                                                  \
            vec4 row_ = left[(4 * down() + i_) * PITCH + c_];                                         \
            [[unroll]] for (uint j_ = 0; j_ < 4; ++j_) sum[i_][j_] += dot(row_, columns_[j_]);        \
        }                                                                                             \
    }

// sum[i * PARTS + v] += scores of row i times the columns' channels, over all columns of the block.
// `place(column)` is the column's row in the tile.
#define ADD_WEIGHTED(sum, scores, tile, place)                                                        \
    [[dont_unroll]] for (uint n_ = 0; n_ < ACROSS; ++n_) {                                            \
        vec4 weights_[4];                                                                             \
        [[unroll]] for (uint i_ = 0; i_ < 4; ++i_) {                                                  \
            weights_[i_] = scores[(4 * down() + i_) * SCORE_PITCH + n_];                              \
        }                                                                                             \
        [[unroll]] for (uint j_ = 0; j_ < 4; ++j_) {                                                  \
            [[unroll]] for (uint v_ = 0; v_ < PARTS; ++v_) {                                          \
                vec4 x_ = tile[place(4 * n_ + j_) * PITCH + across() + v_ * ACROSS];                  \
                [[unroll]] for (uint i_ = 0; i_ < 4; ++i_) {                                          \
                    sum[i_ * PARTS + v_] += weights_[i_][j_] * x_;                                    \
                }                                                                                     \
            }                                                                                         \
        }                                                                                             \
    }

#define IN_ORDER(column) (column)
