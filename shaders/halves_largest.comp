#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#pragma hlx fast
// The largest finite magnitude of each workgroup's share of a tensor, as the bits of a float. The largest of
// these is the tensor's; the order of comparing does not matter.
layout(local_size_x = 256) in;

layout(std430, set = 0, binding = 0) readonly buffer Input { uint input_[]; };       // [count]
layout(std430, set = 0, binding = 0) readonly buffer InputQuads { uvec4 input_uvec4[]; };
layout(std430, set = 0, binding = 1) writeonly buffer Parts { uint parts[]; };       // one a workgroup

layout(push_constant) uniform Push {
    uint count;
} push;

shared uint largest;

uint magnitude(uint bits) {
    bits &= 0x7fffffff;
    return bits < 0x7f800000 ? bits : 0;
}

void main() {
    if (gl_LocalInvocationIndex == 0) {
        largest = 0;
    }
    barrier();
    uint found = 0;
    uint quads = push.count / 4;
    uint step = gl_NumWorkGroups.x * gl_WorkGroupSize.x;
    uint first = gl_WorkGroupID.x * gl_WorkGroupSize.x + gl_LocalInvocationIndex;
    for (uint i = first; i < quads; i += 8 * step) {
        uvec4 read[8];
        [[unroll]] for (uint j = 0; j < 8; ++j) {
            read[j] = i + j * step < quads ? input_uvec4[i + j * step] : uvec4(0);
        }
        [[unroll]] for (uint j = 0; j < 8; ++j) {
            found = max(found, max(magnitude(read[j].x), magnitude(read[j].y)));
            found = max(found, max(magnitude(read[j].z), magnitude(read[j].w)));
        }
    }
    if (first < push.count % 4) {
        found = max(found, magnitude(input_[4 * quads + first]));
    }
    atomicMax(largest, found);
    barrier();
    if (gl_LocalInvocationIndex == 0) {
        parts[gl_WorkGroupID.x] = largest;
    }
}
