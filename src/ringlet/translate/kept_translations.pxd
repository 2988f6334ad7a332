"""Kept translations as an object that owns them."""
from ringlet.core.state cimport u32
from ringlet.translate.kept cimport Kept
from ringlet.translate.learn_table cimport LearnTable

cdef class KeptTranslations:
    cdef Kept k
    cdef LearnTable table
    cdef u32 loaded      # arena offset behind those of earlier runs
