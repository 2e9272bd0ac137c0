// Row reductions: a row is summed in ROW_LANES strided partial sums, then over a fixed binary tree.
//
// ROW_WIDTH invocations share a row and ROWS_PER_GROUP rows share a workgroup. The two change who
// computes a lane, never its order: a GPU takes 32 invocations a row and a shared-memory tree, a
// CPU-type device one invocation a row and no barrier. Twin of ops::rows.
//
// Every invocation of a workgroup must call row_sum and row_max equally often.

const uint ROW_LANES = 32;

layout(local_size_x = 32, local_size_y = 4, local_size_x_id = 0, local_size_y_id = 1) in;
const uint ROW_WIDTH = gl_WorkGroupSize.x;
const uint ROWS_PER_GROUP = gl_WorkGroupSize.y;

// Lanes that one invocation computes: lane(l) for l below this.
const uint LANES_HERE = ROW_LANES / ROW_WIDTH;

shared float row_shared[ROWS_PER_GROUP * ROW_LANES];

uint row_index() {
    uint group = gl_WorkGroupID.y * gl_NumWorkGroups.x + gl_WorkGroupID.x;
    return group * ROWS_PER_GROUP + gl_LocalInvocationID.y;
}

uint lane(uint l) {
    return gl_LocalInvocationID.x + l * ROW_WIDTH;
}

// Makes every lane of the row visible to each of its invocations.
void share_lanes(inout float part[ROW_LANES]) {
    if (ROW_WIDTH == 1) return;
    uint base = gl_LocalInvocationID.y * ROW_LANES;
    barrier();
    for (uint l = 0; l < LANES_HERE; ++l) row_shared[base + lane(l)] = part[l];
    barrier();
    for (uint p = 0; p < ROW_LANES; ++p) part[p] = row_shared[base + p];
}

// part[l] holds the partial sum of lane(l); the result is the same in each invocation of the row.
float row_sum(inout float part[ROW_LANES]) {
    share_lanes(part);
    for (uint s = ROW_LANES / 2; s > 0; s >>= 1)
        for (uint p = 0; p < s; ++p) part[p] = part[p] + part[p + s];
    return part[0];
}

// The largest of the lanes' values.
float row_max(inout float part[ROW_LANES]) {
    share_lanes(part);
    float largest = part[0];
    for (uint p = 1; p < ROW_LANES; ++p) largest = part[p] > largest ? part[p] : largest;
    return largest;
}
