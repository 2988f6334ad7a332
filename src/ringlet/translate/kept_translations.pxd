"""Kept translations as an object that owns them."""
from ringlet.translate.kept cimport Kept
from ringlet.translate.learn_table cimport LearnTable

cdef class KeptTranslations:
    cdef Kept k
    cdef LearnTable table
