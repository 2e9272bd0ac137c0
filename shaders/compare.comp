#version 460
#extension GL_GOOGLE_include_directive : require
#pragma hlx fast
// Counts the words of a product's result that are not those of another, and leaves UNWRITTEN in it, so that what
// the next product does not write is seen. Nothing is calculated with them.
layout(local_size_x = 256) in;

#include "flat.glsl"

layout(std430, set = 0, binding = 0) readonly buffer Wanted { uint wanted[]; }; // [words]
layout(std430, set = 0, binding = 1) buffer Got { uint got[]; };                // [words]
layout(std430, set = 0, binding = 2) buffer Different { uint different[]; };    // [1]

layout(push_constant) uniform Push {
    uint words;
    uint rows;    // of each matrix
    uint columns;
    uint lower;   // only what has a column up to its row counts, and a word is an element
} push;

const uint UNWRITTEN = 0x7fff7fffu; // not a number, in 32 bits and in 16

void main() {
    uint i = flat_index();
    if (i >= push.words) {
        return;
    }
    bool counts = push.lower == 0 || i % push.columns <= i / push.columns % push.rows;
    if (counts && got[i] != wanted[i]) {
        atomicAdd(different[0], 1);
    }
    got[i] = UNWRITTEN;
}
