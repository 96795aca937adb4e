"""Every code that corpora and speech models have for a language is that language, and it has a name."""

from __future__ import annotations

import pytest
from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

from speechllm_plugin.errors import UserError
from speechllm_plugin.text.languages import is_translation, language_code, language_name

ISO_639_1 = (
    "aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en eo "
    "es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka "
    "kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng "
    "nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su "
    "sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu"
)
FLEURS = (
    "af_za am_et ar_eg as_in ast_es az_az be_by bg_bg bn_in bs_ba ca_es ceb_ph ckb_iq cmn_hans_cn cs_cz cy_gb da_dk "
    "de_de el_gr en_us es_419 et_ee fa_ir ff_sn fi_fi fil_ph fr_fr ga_ie gl_es gu_in ha_ng he_il hi_in hr_hr hu_hu "
    "hy_am id_id ig_ng is_is it_it ja_jp jv_id ka_ge kam_ke kea_cv kk_kz km_kh kn_in ko_kr ky_kg lb_lu lg_ug ln_cd "
    "lo_la lt_lt luo_ke lv_lv mi_nz mk_mk ml_in mn_mn mr_in ms_my mt_mt my_mm nb_no ne_np nl_nl nso_za ny_mw oc_fr "
    "om_et or_in pa_in pl_pl ps_af pt_br ro_ro ru_ru sd_in sk_sk sl_si sn_zw so_so sr_rs sv_se sw_ke ta_in te_in tg_tj "
    "th_th tr_tr uk_ua umb_ao ur_pk uz_uz vi_vn wo_sn xh_za yo_ng yue_hant_hk zu_za"
)
# The speech that SeamlessM4T v2 takes, and the codes of ISO 639-1 that are the same languages.
SEAMLESS = (
    "afr:af amh:am arb:ar asm:as azj:az bel:be ben:bn bos:bs bul:bg cat:ca ces:cs cmn:zh cym:cy dan:da deu:de ell:el "
    "eng:en est:et eus:eu fin:fi fra:fr gaz:om gle:ga glg:gl guj:gu heb:he hin:hi hrv:hr hun:hu hye:hy ibo:ig ind:id "
    "isl:is ita:it jav:jv jpn:ja kan:kn kat:ka kaz:kk khk:mn khm:km kir:ky kor:ko lao:lo lit:lt ltz:lb lug:lg lvs:lv "
    "mal:ml mar:mr mkd:mk mlt:mt mya:my nld:nl nno:nn nob:no npi:ne nya:ny oci:oc ory:or pan:pa pbt:ps pes:fa pol:pl "
    "por:pt ron:ro rus:ru slk:sk slv:sl sna:sn snd:sd som:so spa:es srp:sr swe:sv swh:sw tam:ta tel:te tgk:tg tgl:tl "
    "tha:th tur:tr ukr:uk urd:ur uzn:uz vie:vi xho:xh yor:yo zlm:ms zul:zu"
)
SEAMLESS_ALONE = "ary arz ast ceb ckb fuv kam kea luo mai mni yue"


def test_every_iso_code_has_a_name_of_its_own() -> None:
    codes = ISO_639_1.split()
    assert len(codes) == 183
    names = {code: language_name(code) for code in codes}
    # Bokmål is what "Norwegian" alone means.
    assert {code for code in codes if list(names.values()).count(names[code]) > 1} == {"nb", "no"}
    assert (names["ga"], names["or"], names["rw"], names["zu"]) == ("Irish", "Odia", "Kinyarwanda", "Zulu")
    assert all(language_code(name) == language_code(code) for code, name in names.items())


def test_the_languages_of_fleurs() -> None:
    names = [language_name(code) for code in FLEURS.split()]
    assert len(set(names)) == len(names) == 102
    assert all("(" not in name for name in names)
    assert language_name("cmn_hans_cn") == "Chinese" and language_name("ckb_iq") == "Central Kurdish"


def test_three_letters_are_the_same_languages_as_two() -> None:
    for pair in SEAMLESS.split():
        three, two = pair.split(":")
        assert language_code(three) == language_code(two), pair
        assert language_name(three) == language_name(two)
    alone = SEAMLESS_ALONE.split()
    assert [language_code(code) for code in alone] == alone
    assert len({language_name(code) for code in alone}) == len(alone)


@pytest.mark.parametrize("language", ["en", "EN", "en-US", "en_gb", "en-UK", "eng", "English", "english", " en "])
def test_what_english_is_called(language: str) -> None:
    assert (language_code(language), language_name(language)) == ("en", "English")
    assert not is_translation("en", language) and not is_translation(language, "English")
    assert is_translation(language, "de") and is_translation("deu", language)


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("zh-nan", "nan"),  # as Wikipedia and BCP 47 once wrote it
        ("zh-min-nan", "nan"),
        ("nan-tw", "nan"),  # Common Voice
        ("iw", "he"),
        ("jw", "jv"),
        ("Mandarin", "zh"),
        ("Tagalog", "fil"),
        ("Flemish", "nl"),
        ("rm-sursilv", "rm"),
        # What is no language is at least itself.
        ("Dialect 7", "dialect 7"),
        ("x-mine", "x-mine"),
        ("xx", "xx"),
        ("", ""),
    ],
)
def test_other_ways_to_write_a_language(language: str, code: str) -> None:
    assert language_code(language) == code


def test_languages_that_are_close_are_two() -> None:
    for one, other in (("yue", "zh"), ("nan", "zh"), ("arz", "ar"), ("nn", "no"), ("hr", "sr"), ("ckb", "ku")):
        assert is_translation(one, other)
    assert not is_translation("en", "") and not is_translation("en", None)


def test_prompts_keep_the_names_that_they_had() -> None:
    """Whisper's: those of systems that were trained before there were others."""
    for code, name in LANGUAGES.items():
        assert language_name(code) == name.title()
    for name, code in TO_LANGUAGE_CODE.items():
        assert language_code(name) == language_code(code)


@pytest.mark.parametrize("language", ["", "xx", "gibberish", "-", "e n", "und", "mul", "zxx", "qaa", "x-mine"])
def test_what_is_no_language_has_no_name(language: str) -> None:
    with pytest.raises(UserError) as caught:
        language_name(language)
    assert str(caught.value) == (
        f"language: found {language!r}, expected a code of ISO 639 such as en, deu, pt-BR, or an English name"
    )
