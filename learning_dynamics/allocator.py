"""Allocator settings of every job: large temporaries page-fault under glibc's defaults; huge pages
and no trimming avoid it."""

MEMORY = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "THP_MEM_ALLOC_ENABLE": "1",
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
}
