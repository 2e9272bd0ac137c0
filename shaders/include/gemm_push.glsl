// What every matrix product is told: C[m,n] = snap(op(A)[m,k] * op(B)[k,n] + bias[n]), batched.
//
// The order of each element's sum is the exact contract's: +0, then the rounded products of a block of
// K_BLOCK terms ascending; a total from +0, then the blocks ascending; then the bias. Leaving out, or
// putting in, terms that are zero keeps every bit: x + y is -0 only if both are -0, so a sum that started at
// +0 is never -0, and x + (+0) = x + (-0) = x for every x that is not -0. For the same reason a bias of +0
// is no bias.

layout(push_constant) uniform Push {
    uint m;
    uint k;
    uint n;
    uint use_bias;
    uint lda; // elements from one stored row to the next
    uint ldb;
    uint ldc;
    uint batch_inner; // batch z is inner batch z % batch_inner of outer batch z / batch_inner
    uint a_outer;     // elements from one outer batch to the next
    uint a_inner;     // elements from one inner batch to the next
    uint b_outer;
    uint b_inner;
    uint c_outer;
    uint c_inner;
    uint causal; // one of the five below
    uint a_first; // the first element
    uint b_first;
    uint c_first;
#ifdef FREE_BLOCKS
    uint block_terms; // terms of a block, where it is not the contract's
#endif
#ifdef ADDRESSES
    ADDRESSES
#endif
#ifdef SCALED_FACTORS
    float a_scale; // powers of two: what A and B are multiplied by before they are rounded,
    float b_scale;
    float c_scale; // and what undoes it
    float out_scale; // what C is multiplied by before it is rounded, if it is packed
#endif
} push;

const uint CAUSAL_NONE = 0;
const uint CAUSAL_LOWER_C = 1; // only columns <= row are wanted; whatever stands above is never read
const uint CAUSAL_LOWER_A = 2; // op(A)[i, p] is a stored zero for p > i
const uint CAUSAL_UPPER_A = 3; // op(A)[i, p] is a stored zero for p < i
const uint CAUSAL_BLOCKS = 4;  // batch z sums block z of the terms alone, and its sum is stored as it is

layout(constant_id = 0) const uint TRANS_A = 0; // A is stored [k, m], else [m, k]
layout(constant_id = 1) const uint TRANS_B = 0; // B is stored [n, k], else [k, n]
// Every stored row starts at a multiple of four elements, so that four can be moved at once.
layout(constant_id = 2) const uint WIDE_A = 0;
layout(constant_id = 3) const uint WIDE_B = 0;
layout(constant_id = 4) const uint WIDE_C = 0;

#ifdef FREE_BLOCKS
#define K_BLOCK push.block_terms
#else
const uint K_BLOCK = 256;
#endif

// First element of this workgroup's batch.
uint batch_start(uint first, uint outer, uint inner) {
    return first + gl_WorkGroupID.z / push.batch_inner * outer + gl_WorkGroupID.z % push.batch_inner * inner;
}

// The terms that the sums of the rows first <= i < end need.
uint first_term(uint first) {
    if (push.causal == CAUSAL_BLOCKS) {
        return gl_WorkGroupID.z * K_BLOCK;
    }
    return push.causal == CAUSAL_UPPER_A ? first : 0;
}

uint end_of_terms(uint end) {
    if (push.causal == CAUSAL_BLOCKS) {
        uint block_end = (gl_WorkGroupID.z + 1) * K_BLOCK;
        return block_end < push.k ? block_end : push.k;
    }
    return push.causal == CAUSAL_LOWER_A && end < push.k ? end : push.k;
}

// An element of C from the sum of its terms. gemm_finish finishes what is summed block by block.
float finished(float total, uint column) {
    return push.causal == CAUSAL_BLOCKS ? total : snap(total + BIAS(column));
}

// True if no element of rows before end and columns from column on is wanted.
bool is_unwanted(uint end, uint column) {
    return push.causal == CAUSAL_LOWER_C && column >= end;
}
