"""A tuned model in the forms that other libraries load: one file a form, each with `write(adapter, folder)`.

Texts and videos become unit embeddings there, so a head that scores in another way than by cosine is refused.
"""
