// The tiles that workgroups compute of a product, and the order in which they are taken up.

layout(constant_id = 5) const uint TILE_ROWS = 128; // rows and columns that a workgroup computes
layout(constant_id = 6) const uint TILE_COLUMNS = 128;
layout(constant_id = 7) const uint WHOLE = 0; // no tile, and no share of terms, is cut off by an edge
layout(constant_id = 8) const uint BAND = 1;  // rows of tiles that are worked on at a time

// The first column and row of this workgroup's tile. Bands of rows are walked down column by column, so that
// the workgroups that run at one time share what they read.
uvec2 tile_corner() {
    uvec2 tile = gl_WorkGroupID.xy;
    if (BAND > 1) {
        uint index = tile.y * gl_NumWorkGroups.x + tile.x;
        uint band = index / (BAND * gl_NumWorkGroups.x);
        uint first = band * BAND;
        // gl_NumWorkGroups.y counts a part of the rows where a dispatch is cut.
        uint height = min(BAND, (push.m + TILE_ROWS - 1) / TILE_ROWS - first);
        uint inside = index - first * gl_NumWorkGroups.x;
        tile = uvec2(inside / height, first + inside % height);
    }
    return tile * uvec2(TILE_COLUMNS, TILE_ROWS);
}
