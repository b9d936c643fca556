// Which points lie in a polygon, by the crossings of a ray: written for this benchmark to the specification that
// recorded spaces of cn_pnpoly share. A block of block_size_x threads tests tile_size points a thread, block_size_x
// apart, against every edge; vertices lie in constant memory. between_method: how an edge is found to span the point's
// height; use_method: how crossings are counted.
__constant__ float2 d_vertices[VERTICES];

__device__ __forceinline__ bool between(float from, float at, float to) {
#if between_method == 0
    return (from > at) != (to > at);
#elif between_method == 1
    return (at >= from && at < to) || (at >= to && at < from);
#elif between_method == 2
    return (from - at) * (to - at) < 0.0f;
#else
    return (int)(from > at) + (int)(to > at) == 1;
#endif
}

extern "C" __global__ void cn_pnpoly(int* bitmap, const float2* points, int n) {
    const int first = blockIdx.x * block_size_x * tile_size + threadIdx.x;
    float2 p[tile_size];
    int crossings[tile_size];
#pragma unroll
    for (int t = 0; t < tile_size; ++t) {
        const int at = first + t * block_size_x;
        p[t] = at < n ? points[at] : make_float2(0.0f, 0.0f);
        crossings[t] = 0;
    }
    float2 behind = d_vertices[VERTICES - 1];
    for (int v = 0; v < VERTICES; ++v) {
        const float2 here = d_vertices[v];
        const float slope = (behind.x - here.x) / (behind.y - here.y);
#pragma unroll
        for (int t = 0; t < tile_size; ++t) {
            const bool crosses = between(here.y, p[t].y, behind.y) && p[t].x < slope * (p[t].y - here.y) + here.x;
#if use_method == 0
            if (crosses) crossings[t] = !crossings[t];
#elif use_method == 1
            crossings[t] += crosses;
#else
            crossings[t] ^= crosses;
#endif
        }
        behind = here;
    }
#pragma unroll
    for (int t = 0; t < tile_size; ++t) {
        const int at = first + t * block_size_x;
        if (at < n) bitmap[at] = crossings[t] & 1;
    }
}
